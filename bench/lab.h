/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The laboratory of the benchmarks with a kernel peer: a client's network namespace, joined by veth to a
 * server's namespace (kernel TCP) and by a tap or another veth to flextoed (FlexTOE). Server programs and
 * flextoed run on the first core, the client on the second. Everything made here is taken away by
 * lab_close(), and also when this process ends in any other way.
 */
#ifndef BENCH_LAB_H
#define BENCH_LAB_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "bench/bench.h"

#define LAB_KERNEL_ADDR "10.77.1.2" /* the server's over veth */
#define LAB_ENGINE_ADDR "10.77.2.2" /* flextoed's */
#define LAB_SERVER_CPU	0
#define LAB_CLIENT_CPU	1
#define LAB_ARGS	24
#define LAB_CHILDREN	16

enum lab_side { LAB_KERNEL, LAB_FLEXTOE, LAB_SIDES };

/* What joins the client and flextoed; kernel TCP has a veth of the same MTU beside it. */
struct lab_link {
	const char *suffix; /* of the names of cases: "" or "-afxdp" */
	bool afxdp;	    /* AF_XDP on a veth; else a tap */
	bool generic;	    /* with afxdp: XDP's generic mode */
	unsigned mtu;
};
extern const struct lab_link lab_tap;
extern const struct lab_link lab_afxdp;		/* native mode, MTU 1500 */
extern const struct lab_link lab_afxdp_generic; /* MTU 1500; the peer's 64 KiB segments arrive whole */
extern const struct lab_link lab_afxdp_jumbo;	/* native mode, MTU 65535 */

struct lab_child {
	pid_t pid;
	FILE *in;  /* what it prints */
	int input; /* its standard input, or -1 */
};

struct lab {
	char client_ns[32], server_ns[32], middle_ns[32], dir[64], socket_path[96];
	struct lab_child *child[LAB_CHILDREN];
	unsigned child_count;
	pid_t guardian;
	int guardian_fd;
	struct lab_child *flextoed;
	double startup_s; /* from exec of flextoed until it was ready */
};

/* Namespaces, links and flextoed. 0, or a negative errno after saying why on stderr; close it in either case.
 */
int lab_open(struct lab *lab, const struct lab_link *link);
void lab_close(struct lab *lab);

/* Runs a command line of words to its end: 0, or -EIO when it failed. lab_close() takes the namespace
   middle_ns away too, if it was made. */
int lab_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
void lab_tap_name(char *name, size_t size); /* of the kernel's end of flextoed's tap */

/* Runs a program: netns NULL for the one we are in; cpu -1 for any. NULL after saying why on stderr. */
struct lab_child *lab_spawn(struct lab *lab, const char *netns, int cpu, const char *const *argv);
void lab_stop(struct lab *lab, struct lab_child *child);
/* Reads lines until one starts with `word`; false when the program ended first. The line is left in out. */
bool lab_await(struct lab_child *child, const char *word, char *out, size_t size);

/* A server program on one side: on kernel TCP in the server's namespace, or under `flextoe run`. It is waited
   for until `port` takes connections. "ADDR" in an argument stands for the side's address. */
struct lab_child *lab_serve(struct lab *lab, enum lab_side side, const char *const *argv, uint16_t port);
const char *lab_addr(enum lab_side side);

double lab_cpu_s(pid_t pid); /* processor time of a process so far, all threads */
double lab_resident_kib(pid_t pid);

/* What one run of ft-load against one side came to. */
struct lab_figures {
	double rate, bytes_rate, p50_us, p99_us, p999_us; /* operations/s, bytes/s */
	double app_cycles, engine_cycles;		  /* an operation, or a KiB of bulk */
	double app_share, engine_share, client_share;	  /* of a core */
};
struct lab_load {
	const char *mode; /* of ft-load */
	uint16_t port;
	unsigned connections, pipeline, size;
	double warmup_s, seconds;
};
int lab_measure(struct lab *lab, enum lab_side side, const struct lab_child *server,
	const struct lab_load *load, struct lab_figures *out);
/* The median of each figure. */
void lab_median(const struct lab_figures *runs, unsigned n, struct lab_figures *out);

#endif
