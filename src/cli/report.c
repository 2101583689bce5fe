/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flextoe stat and flextoe ss: ask the engine for a report and print it as it comes. The engine writes the
 * text; this only carries it, with every length checked.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/cli.h"
#include "flextoe/abi.h"

#define PATIENCE_MS 5000

/* Prints one report; 0, or the exit status after having said what is wrong. */
static int report_print(const char *path, uint32_t what)
{
	static union {
		struct flextoe_msg_header header;
		struct flextoe_msg_error error;
		char bytes[FLEXTOE_MSG_MAX];
	} msg;
	struct flextoe_msg_status ask = {
		.header = {.version = FLEXTOE_ABI_VERSION, .type = FLEXTOE_MSG_STATUS, .length = sizeof(ask)},
		.what = what,
	};
	int fd = cli_socket_connect(path);

	if (fd < 0)
		return 1;
	if (send(fd, &ask, sizeof(ask), MSG_NOSIGNAL) != (ssize_t)sizeof(ask)) {
		close(fd);
		return cli_fail("the engine does not listen: %s", strerror(errno));
	}
	for (;;) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&pfd, 1, PATIENCE_MS) != 1) {
			close(fd);
			return cli_fail(
				"the engine at %s did not answer within %d s", path, PATIENCE_MS / 1000);
		}
		n = recv(fd, &msg, sizeof(msg), 0);
		if (n >= (ssize_t)sizeof(msg.header) && msg.header.type == FLEXTOE_MSG_ERROR &&
			(size_t)n >= sizeof(msg.error)) {
			close(fd);
			return cli_fail("%.*s", (int)sizeof(msg.error.text), msg.error.text);
		}
		if (n < (ssize_t)sizeof(msg.header) || msg.header.type != FLEXTOE_MSG_TEXT) {
			close(fd);
			return cli_fail("the engine at %s %s", path,
				n == 0 ? "closed the connection" : "speaks another version");
		}
		fwrite(msg.bytes + sizeof(msg.header), 1, (size_t)n - sizeof(msg.header), stdout);
		if (msg.header.error != 0)
			break;
	}
	close(fd);
	return 0;
}

static int report(int argc, char **argv, uint32_t plain, uint32_t json)
{
	const char *path = NULL;
	uint32_t what = plain;
	bool watch = false;
	int rc;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			what = json;
		else if (strcmp(argv[i], "--watch") == 0)
			watch = true;
		else if (strncmp(argv[i], "--socket=", 9) == 0)
			path = argv[i] + 9;
		else if (strcmp(argv[i], "--socket") == 0 && i + 1 < argc)
			path = argv[++i];
		else
			return cli_usage(
				"%s: unknown flag, or a flag without its value: %s", argv[0], argv[i]);
	}
	path = cli_socket_path(path);
	for (;;) {
		if (watch && what == plain && isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		rc = report_print(path, what);
		if (fflush(stdout) != 0)
			return 1;
		if (rc != 0 || !watch)
			return rc;
		sleep(1);
	}
}

int cli_stat(int argc, char **argv)
{
	return report(argc, argv, FLEXTOE_STATUS_STAT, FLEXTOE_STATUS_STAT_JSON);
}

int cli_ss(int argc, char **argv)
{
	return report(argc, argv, FLEXTOE_STATUS_SS, FLEXTOE_STATUS_SS_JSON);
}
