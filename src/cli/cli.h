/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands of `flextoe`. Each gets its own name as argv[0] and returns an exit status. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

int cli_run(int argc, char **argv);
int cli_stat(int argc, char **argv);
int cli_ss(int argc, char **argv);
int cli_demo(int argc, char **argv);

#define CLI_PATH_MAX 4096

/* "flextoe: text"; returns the status for wrong usage. */
int cli_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
int cli_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The folder of the running program. 0 or a negative errno. */
int cli_program_dir(char out[CLI_PATH_MAX]);
/* The engine's socket: what was given, the environment's, or the default. */
const char *cli_socket_path(const char *given);
/* Connects to it; -1 after having said what is wrong. */
int cli_socket_connect(const char *path);

#endif
