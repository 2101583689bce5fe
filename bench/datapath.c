/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `flextoe bench datapath`: instructions a segment costs in the data path, counted by callgrind inside
 * datapath_poll() and nowhere else, so the figure does not depend on the machine's load. There is no device:
 * frames lie in memory. Each case runs in a child under valgrind.
 *
 * rx-64-ack, rx-1448-ack   a data segment comes in; its payload is placed, the application notified, and its
 *                          ACK sent (alone, as the second full segment's would be)
 * pure-ack                 an ACK for a segment of ours comes in; nothing goes out
 * tx-64, tx-1448           the application has written; the segment is built and handed to the device
 * rpc-64                   a request comes in, the reply goes out with its ACK, and so on: one RPC
 * A round brings 32 of them, on 32 hot connections, so that each has its own ACK and its own notification (a
 * batch of one connection shares them: the suffix -one, for what comes in). The suffix -10k: the same on
 * 10,000 connections in turn; -single: one segment a round, so that it pays for the round alone.
 */
#include "bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/datapath_kinds.h"
#include "core/platform.h"

static int child_measure(const char *name, double *instructions)
{
	int out[2];
	char text[65536];
	size_t n = 0;
	ssize_t got;
	char *collected;
	unsigned long long total = 0, segments = 0;
	char program[512];
	pid_t pid;

	if (!bench_program("ft-datapath", program, sizeof(program))) {
		fprintf(stderr, "bench datapath: ft-datapath is not there: build first\n");
		return -ENOENT;
	}
	if (pipe2(out, O_CLOEXEC) != 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		dup2(out[1], 1);
		dup2(out[1], 2);
		execlp("valgrind", "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
			"--toggle-collect=datapath_measured", program, name, (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	while (n < sizeof(text) - 1 && (got = read(out[0], text + n, sizeof(text) - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = 0;
	close(out[0]);
	waitpid(pid, NULL, 0);
	collected = strstr(text, "Collected : ");
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (line[0] >= '0' && line[0] <= '9')
			segments = strtoull(line, NULL, 10);
	if (collected)
		total = strtoull(collected + 12, NULL, 10);
	if (!total || !segments) {
		fprintf(stderr,
			"bench datapath: valgrind gave no count for %s: is the package valgrind installed?\n",
			name);
		return -EIO;
	}
	*instructions = (double)total / (double)segments;
	return 0;
}

static int run(struct bench_run *run)
{
	static const char *const suffixes[] = {"", "-10k", "-one", "-single"};

	for (unsigned suffix = 0; suffix < ARRAY_SIZE(suffixes); suffix++)
		for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
			char name[32];
			double v;
			int r;

			snprintf(name, sizeof(name), "%s%s", kinds[i].name, suffixes[suffix]);
			if (!bench_wants(run, name) ||
				(!strcmp(suffixes[suffix], "-one") && kinds[i].tx_len && !kinds[i].ack_only))
				continue;
			bench_progress(run, "counting instructions of %s", name);
			r = child_measure(name, &v);
			if (r < 0)
				return r;
			bench_add(run, name, "instructions", "per segment", v, kinds[i].bar);
		}
	snprintf(run->note, sizeof(run->note),
		"Instructions inside datapath_poll(), copies included, in rounds of 32 segments on 32 "
		"connections, "
		"each with its own ACK and notification (-one: on one, which shares them; -single: rounds of "
		"one). "
		"The baseline "
		"is the bar of the project, not kernel TCP.");
	return 0;
}

extern const struct bench bench_datapath;
const struct bench bench_datapath = {
	.name = "datapath", .summary = "instructions per segment in the data path, by callgrind", .run = run};
