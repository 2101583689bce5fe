/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flextoe run: starts a program with the preloaded library and the engine's socket in its environment. It
 * looks whether there is an engine first, so that a program does not quietly start on the kernel.
 *
 * A library built with the address sanitizer needs the sanitizer's own library in front of it: its path in
 * FLEXTOE_ASAN puts it there (scripts/test does). What the program itself does not free is then not looked
 * for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/platform.h"

#define PRELOAD "libflextoe-preload.so"

/* Beside the program in the build tree, or where it was installed. */
static int preload_find(char out[CLI_PATH_MAX])
{
	static const char *const places[] = {
		"", "src/host/", "../host/", "../lib/", "../lib/" FLEXTOE_MULTIARCH "/", "../lib64/"};
	const char *given = getenv("FLEXTOE_PRELOAD");
	char dir[CLI_PATH_MAX];

	if (given != NULL && given[0] != '\0') {
		snprintf(out, CLI_PATH_MAX, "%s", given);
		return access(out, R_OK) == 0 ? 0 : -errno;
	}
	if (cli_program_dir(dir) != 0)
		return -ENOENT;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char path[CLI_PATH_MAX + 64];

		snprintf(path, sizeof(path), "%s/%s%s", dir, places[i], PRELOAD);
		if (access(path, R_OK) == 0)
			return realpath(path, out) != NULL ? 0 : -errno;
	}
	return -ENOENT;
}

/* Puts `first` in front of what the variable holds. */
static int environment_prepend(const char *name, const char *first)
{
	const char *old = getenv(name);
	char *value = NULL;
	int rc = -1;

	if (asprintf(&value, "%s%s%s", first, old != NULL && old[0] != '\0' ? ":" : "",
		    old != NULL ? old : "") >= 0)
		rc = setenv(name, value, 1);
	free(value);
	return rc;
}

static int environment_set(const char *library, const char *socket_path)
{
	const char *asan = getenv("FLEXTOE_ASAN");

	if (environment_prepend("LD_PRELOAD", library) != 0 || setenv("FLEXTOE_SOCKET", socket_path, 1) != 0)
		return -1;
	if (asan == NULL || asan[0] == '\0')
		return 0;
	return environment_prepend("ASAN_OPTIONS", "detect_leaks=0") != 0
		       ? -1
		       : environment_prepend("LD_PRELOAD", asan);
}

int cli_run(int argc, char **argv)
{
	const char *socket_path = NULL;
	char library[CLI_PATH_MAX];
	int i = 1, fd, status;

	for (; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		if (strncmp(argv[i], "--socket=", 9) == 0)
			socket_path = argv[i] + 9;
		else if (strcmp(argv[i], "--socket") == 0 && i + 1 < argc)
			socket_path = argv[++i];
		else
			return cli_usage("run: unknown flag, or a flag without its value: %s", argv[i]);
	}
	if (i >= argc)
		return cli_usage("run: no program to start");
	if (preload_find(library) != 0)
		return cli_fail("%s is neither beside this program nor installed; name it in FLEXTOE_PRELOAD",
			PRELOAD);
	socket_path = cli_socket_path(socket_path);
	fd = cli_socket_connect(socket_path);
	if (fd < 0)
		return 1;
	close(fd);
	if (environment_set(library, socket_path) != 0)
		return cli_fail("no memory");
	execvp(argv[i], argv + i);
	status = errno == ENOENT ? 127 : 126; /* as a shell's */
	cli_fail("cannot start %s: %s", argv[i], strerror(errno));
	return status;
}
