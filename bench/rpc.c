// SPDX-License-Identifier: BSD-3-Clause
/*
 * `rpc` and `memcached`: a closed loop of small requests over FlexTOE and over kernel TCP, in turns, with the
 * same kernel-TCP client on a core of its own.
 */
#include <errno.h>
#include <string.h>

#include "bench/lab.h"
#include "core/platform.h"

#define REPETITIONS_MAX 15u

struct rpc_case {
	const char *name;
	unsigned connections, pipeline;
	const struct lab_link *link; /* cases of one link stand together */
};

static const char *const side_names[] = {"kernel TCP", "FlexTOE"};

static void rpc_report(struct bench_run *run, const char *name, const struct lab_figures f[LAB_SIDES])
{
	const struct lab_figures *k = &f[LAB_KERNEL], *x = &f[LAB_FLEXTOE];

	bench_add(run, name, "throughput", "operations/s", x->rate, k->rate);
	bench_add(run, name, "p50", "us", x->p50_us, k->p50_us);
	bench_add(run, name, "p99", "us", x->p99_us, k->p99_us);
	bench_add(run, name, "p99.9", "us", x->p999_us, k->p999_us);
	bench_add(run, name, "app-cycles", "cycles/operation", x->app_cycles, k->app_cycles);
	bench_add(run, name, "engine-cycles", "cycles/operation", x->engine_cycles, BENCH_NONE);
	bench_add(run, name, "host-cycles", "cycles/operation", x->app_cycles + x->engine_cycles,
		k->app_cycles);
	bench_add(run, name, "client-cpu", "% of a core", 100 * x->client_share, 100 * k->client_share);
	bench_add(run, name, "server-cpu", "% of a core", 100 * (x->app_share + x->engine_share),
		100 * k->app_share);
}

/* Runs the cases, both sides in turns; servers[] are up. */
static int rpc_cases(struct bench_run *run, struct lab *lab, struct lab_child *const servers[LAB_SIDES],
	const struct rpc_case *cases, unsigned count, const struct lab_load *like)
{
	struct lab_figures runs[LAB_SIDES][REPETITIONS_MAX], median[LAB_SIDES];
	unsigned repetitions = run->repetitions ? run->repetitions : 3, i, r, side;

	if (repetitions > REPETITIONS_MAX)
		repetitions = REPETITIONS_MAX;
	for (i = 0; i < count; i++) {
		struct lab_load load = *like;

		if (!bench_wants(run, cases[i].name))
			continue;
		load.connections = cases[i].connections;
		load.pipeline = cases[i].pipeline;
		for (r = 0; r < repetitions; r++) {
			for (side = 0; side < LAB_SIDES; side++) {
				int err;

				bench_progress(run, "%s: %s, %u of %u", cases[i].name, side_names[side],
					r + 1, repetitions);
				err = lab_measure(
					lab, (enum lab_side)side, servers[side], &load, &runs[side][r]);
				if (err)
					return err;
			}
		}
		for (side = 0; side < LAB_SIDES; side++)
			lab_median(runs[side], repetitions, &median[side]);
		rpc_report(run, cases[i].name, median);
	}
	return 0;
}

/* The cases of one link. */
static int rpc_link_run(struct bench_run *run, const char *const *argv, const struct rpc_case *cases,
	unsigned count, const struct lab_load *load)
{
	struct lab_child *servers[LAB_SIDES];
	bool wanted = false;
	struct lab lab;
	int err;

	for (unsigned i = 0; i < count; i++)
		wanted = wanted || bench_wants(run, cases[i].name);
	if (!wanted)
		return 0;
	err = lab_open(&lab, cases[0].link);
	if (!err) {
		servers[LAB_KERNEL] = lab_serve(&lab, LAB_KERNEL, argv, load->port);
		servers[LAB_FLEXTOE] =
			servers[LAB_KERNEL] ? lab_serve(&lab, LAB_FLEXTOE, argv, load->port) : NULL;
		if (!servers[LAB_FLEXTOE])
			err = -EIO;
	}
	if (!err)
		err = rpc_cases(run, &lab, servers, cases, count, load);
	lab_close(&lab);
	return err;
}

static int rpc_serve_and_run(struct bench_run *run, const char *const *argv, const struct rpc_case *cases,
	unsigned count, const struct lab_load *load)
{
	int err = 0;

	for (unsigned first = 0, end; first < count && !err; first = end) {
		end = first + 1;
		while (end < count && cases[end].link == cases[first].link)
			end++;
		err = rpc_link_run(run, argv, cases + first, end - first, load);
	}
	snprintf(run->note, sizeof(run->note),
		"value: FlexTOE (the server and flextoed share core 0), over tap or, -afxdp, over AF_XDP on "
		"veth in native mode;\n"
		"baseline: kernel TCP over veth (the server on core 0). The client is the same kernel-TCP "
		"program on core 1.\n"
		"Cycles are process time x TSC frequency / operations. client-cpu near 100 %% says that the "
		"client, not the server,\n"
		"is what saturates.");
	return err;
}

static int rpc_run(struct bench_run *run)
{
	static const struct rpc_case cases[] = {{"1x1", 1, 1, &lab_tap}, {"16x1", 16, 1, &lab_tap},
		{"256x1", 256, 1, &lab_tap}, {"16x16", 16, 16, &lab_tap}, {"256x16", 256, 16, &lab_tap},
		{"1x1-afxdp", 1, 1, &lab_afxdp}, {"16x1-afxdp", 16, 1, &lab_afxdp},
		{"256x1-afxdp", 256, 1, &lab_afxdp}, {"16x16-afxdp", 16, 16, &lab_afxdp},
		{"256x16-afxdp", 256, 16, &lab_afxdp}};
	struct lab_load load = {.mode = "echo",
		.port = 7000,
		.size = 64,
		.warmup_s = 0.3,
		.seconds = run->seconds > 0 ? run->seconds : 1.5};
	char program[512];

	if (!bench_program("ft-echo", program, sizeof(program))) {
		fprintf(stderr, "flextoe bench: ft-echo is not there: build first\n");
		return -ENOENT;
	}
	return rpc_serve_and_run(run, (const char *const[]){program, "--listen", "ADDR:7000", NULL}, cases,
		ARRAY_SIZE(cases), &load);
}

static int memcached_run(struct bench_run *run)
{
	static const struct rpc_case cases[] = {{"1", 1, 1, &lab_tap}, {"16", 16, 1, &lab_tap},
		{"256", 256, 1, &lab_tap}, {"1-afxdp", 1, 1, &lab_afxdp}, {"16-afxdp", 16, 1, &lab_afxdp},
		{"256-afxdp", 256, 1, &lab_afxdp}};
	struct lab_load load = {.mode = "memcached",
		.port = 11211,
		.size = 100,
		.warmup_s = 0.3,
		.seconds = run->seconds > 0 ? run->seconds : 1.5};

	return rpc_serve_and_run(run,
		(const char *const[]){"memcached", "-u", "root", "-l", "ADDR", "-p", "11211", "-U", "0", "-t",
			"1", "-c", "4096", NULL},
		cases, ARRAY_SIZE(cases), &load);
}

extern const struct bench bench_rpc, bench_memcached;
const struct bench bench_rpc = {"rpc", "64-byte echo: connections x requests under way", rpc_run};
const struct bench bench_memcached = {
	"memcached", "memcached, 90 % get and 10 % set of 100 bytes", memcached_run};
