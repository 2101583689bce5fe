/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * flextoe, the command for people: finds the command named and hands over. Exit status: the command's own;
 * 2 for wrong usage, 1 when something failed.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/bench.h"
#include "cli/cli.h"
#include "core/platform.h"
#include "flextoe/flextoe.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *takes;
	const char *summary;
	const char *help;
} commands[] = {
	{"run", cli_run, "[--socket PATH] [--] COMMAND [ARG]...",
		"start a program with its TCP sockets on the engine",
		"The program is any that is linked dynamically; its sockets on the engine's addresses go "
		"through the\n"
		"engine, all others stay with the kernel. Programs it starts inherit this.\n"},
	{"stat", cli_stat, "[--socket PATH] [--json] [--watch]",
		"show the engine's counters, drops by reason",
		"--json prints one object, --watch shows it again every second.\n"},
	{"ss", cli_ss, "[--socket PATH] [--json] [--watch]", "show the engine's connections",
		"With state, queues, round-trip time and windows.\n"},
	{"bench", bench_main, "[NAME] [--json] [ARG]...", "run a benchmark; without a name: list them",
		"Prints a table, or with --json {\"rows\":[...]}. A ratio is value / baseline; the baseline "
		"was measured\n"
		"in the same run.\n"},
	{"demo", cli_demo, "", "memcached over FlexTOE beside memcached over the kernel",
		"Runs both with the same client and prints one table. It takes root, for a network namespace "
		"of its own.\n"},
};

int cli_usage(const char *format, ...)
{
	va_list ap;

	fputs("flextoe: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputs("; flextoe help says more\n", stderr);
	return 2;
}

int cli_fail(const char *format, ...)
{
	va_list ap;

	fputs("flextoe: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	return 1;
}

int cli_program_dir(char out[CLI_PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", out, CLI_PATH_MAX - 1);
	char *slash;

	if (n < 0)
		return -errno;
	out[n] = '\0';
	slash = strrchr(out, '/');
	if (slash == NULL)
		return -ENOENT;
	*slash = '\0';
	return 0;
}

const char *cli_socket_path(const char *given)
{
	const char *env = getenv("FLEXTOE_SOCKET");

	if (given != NULL)
		return given;
	return env != NULL && env[0] != '\0' ? env : FLEXTOE_SOCKET_DEFAULT;
}

int cli_socket_connect(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(un.sun_path)) {
		cli_fail("the socket's path is longer than %zu characters", sizeof(un.sun_path) - 1);
		return -1;
	}
	strcpy(un.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	if (errno == ENOENT || errno == ECONNREFUSED)
		cli_fail("no engine at %s: start flextoed, or name its socket with --socket", path);
	else if (errno == EACCES)
		cli_fail("%s is not yours to use: ask for its group (flextoed --socket-group), or be root",
			path);
	else
		cli_fail("cannot reach the engine at %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

static int help(const char *name)
{
	for (size_t i = 0; name != NULL && i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, name) == 0) {
			printf("usage: flextoe %s %s\n\n%s.\n%s", name, commands[i].takes,
				commands[i].summary, commands[i].help);
			return 0;
		}
	if (name != NULL && strcmp(name, "help") != 0)
		return cli_usage("there is no command '%s'", name);
	puts("usage: flextoe COMMAND [ARG]...\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-7s %s\n", commands[i].name, commands[i].summary);
	puts("  help    flextoe help COMMAND says more about one\n\n"
	     "The engine is found at " FLEXTOE_SOCKET_DEFAULT ", at $FLEXTOE_SOCKET, or at --socket PATH.");
	return 0;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	if (name == NULL) {
		help(NULL);
		return 2;
	}
	if (strcmp(name, "-V") == 0 || strcmp(name, "--version") == 0) {
		puts("flextoe " FLEXTOE_VERSION);
		return 0;
	}
	if (strcmp(name, "help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0)
		return help(argc > 2 ? argv[2] : NULL);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(commands[i].name, name) != 0)
			continue;
		if (argc > 2 && (strcmp(argv[2], "-h") == 0 || strcmp(argv[2], "--help") == 0))
			return help(name);
		return commands[i].run(argc - 1, argv + 1);
	}
	return cli_usage("there is no command '%s'", name);
}
