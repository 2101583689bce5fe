/* SPDX-License-Identifier: BSD-3-Clause */
/* flextoe demo: hands over to scripts/demo of the source tree this program was built in. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/platform.h"

int cli_demo(int argc, char **argv)
{
	static const char *const places[] = {
		"../scripts/demo", "../../../scripts/demo", "../share/flextoe/demo"};
	char dir[CLI_PATH_MAX], path[CLI_PATH_MAX + 64];

	(void)argc;
	if (cli_program_dir(dir) != 0)
		return cli_fail("cannot tell where this program is");
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, places[i]);
		if (access(path, X_OK) != 0)
			continue;
		argv[0] = path;
		execv(path, argv);
		return cli_fail("cannot start %s: %s", path, strerror(errno));
	}
	return cli_fail("the demo is part of the source tree: run make demo there");
}
