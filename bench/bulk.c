// SPDX-License-Identifier: BSD-3-Clause
/*
 * `bulk` and `connrate`: one stream in one direction against a kernel peer, and connections that are opened,
 * used once and closed. FlexTOE and kernel TCP in turns.
 */
#include <errno.h>

#include "bench/lab.h"
#include "core/platform.h"

#define REPETITIONS_MAX 15u

static int measure_both(struct bench_run *run, const char *name, const struct lab_link *link,
	const char *server_mode, const struct lab_load *load, struct lab_figures median[LAB_SIDES])
{
	struct lab_figures runs[LAB_SIDES][REPETITIONS_MAX];
	struct lab_child *servers[LAB_SIDES] = {NULL, NULL};
	unsigned repetitions = run->repetitions ? run->repetitions : 3, r, side;
	char program[512];
	struct lab lab;
	int err;

	if (repetitions > REPETITIONS_MAX)
		repetitions = REPETITIONS_MAX;
	if (!bench_program("ft-echo", program, sizeof(program))) {
		fprintf(stderr, "flextoe bench: ft-echo is not there: build first\n");
		return -ENOENT;
	}
	err = lab_open(&lab, link);
	for (side = 0; !err && side < LAB_SIDES; side++) {
		servers[side] = lab_serve(&lab, (enum lab_side)side,
			(const char *const[]){program, "--mode", server_mode, "--listen", "ADDR:7000", NULL},
			load->port);
		if (!servers[side])
			err = -EIO;
	}
	for (r = 0; !err && r < repetitions; r++) {
		for (side = 0; !err && side < LAB_SIDES; side++) {
			bench_progress(run, "%s: %s, %u of %u", name,
				side == LAB_KERNEL ? "kernel TCP" : "FlexTOE", r + 1, repetitions);
			err = lab_measure(&lab, (enum lab_side)side, servers[side], load, &runs[side][r]);
		}
	}
	lab_close(&lab);
	for (side = 0; !err && side < LAB_SIDES; side++)
		lab_median(runs[side], repetitions, &median[side]);
	return err;
}

static int bulk_case(struct bench_run *run, const char *name, const struct lab_link *link,
	const char *server_mode, const char *client_mode)
{
	struct lab_load load = {.mode = client_mode,
		.port = 7000,
		.connections = 1,
		.pipeline = 1,
		.size = 64,
		.warmup_s = 0.5,
		.seconds = run->seconds > 0 ? run->seconds : 2};
	struct lab_figures f[LAB_SIDES];
	const struct lab_figures *k = &f[LAB_KERNEL], *x = &f[LAB_FLEXTOE];
	int err = measure_both(run, name, link, server_mode, &load, f);

	if (err)
		return err;
	bench_add(run, name, "goodput", "Gbit/s", x->bytes_rate * 8 / 1e9, k->bytes_rate * 8 / 1e9);
	bench_add(run, name, "app-cycles", "cycles/KiB", x->app_cycles, k->app_cycles);
	bench_add(run, name, "engine-cycles", "cycles/KiB", x->engine_cycles, BENCH_NONE);
	bench_add(run, name, "client-cpu", "% of a core", 100 * x->client_share, 100 * k->client_share);
	bench_add(run, name, "server-cpu", "% of a core", 100 * (x->app_share + x->engine_share),
		100 * k->app_share);
	return 0;
}

static int bulk_run(struct bench_run *run)
{
	/* the direction is the server's, which is where FlexTOE is */
	static const struct {
		const char *name, *server, *client;
	} directions[] = {{"receive", "sink", "send"}, {"send", "source", "receive"}};
	static const struct lab_link *const links[] = {
		&lab_tap, &lab_afxdp, &lab_afxdp_generic, &lab_afxdp_jumbo};
	unsigned i, l;

	for (l = 0; l < ARRAY_SIZE(links); l++) {
		for (i = 0; i < ARRAY_SIZE(directions); i++) {
			char name[40];
			int err;

			snprintf(name, sizeof(name), "%s%s", directions[i].name, links[l]->suffix);
			if (!bench_wants(run, name))
				continue;
			err = bulk_case(run, name, links[l], directions[i].server, directions[i].client);
			if (err)
				return err;
		}
	}
	snprintf(run->note, sizeof(run->note),
		"One stream between the server over FlexTOE and a kernel client; baseline: kernel TCP to "
		"kernel TCP over veth of the\n"
		"same MTU. The direction is the server's. Without a suffix: tap, MTU 1500; -afxdp: AF_XDP on "
		"veth in native mode, MTU\n"
		"1500; -generic: in generic mode, where the client's 64 KiB segments arrive whole; -jumbo: "
		"native mode, MTU 65535.");
	return 0;
}

static int connrate_run(struct bench_run *run)
{
	static const struct {
		const char *name;
		unsigned at_a_time;
	} cases[] = {{"1", 1}, {"32", 32}};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		struct lab_load load = {.mode = "connrate",
			.port = 7000,
			.connections = cases[i].at_a_time,
			.pipeline = 1,
			.size = 64,
			.warmup_s = 0.3,
			.seconds = run->seconds > 0 ? run->seconds : 1.5};
		struct lab_figures f[LAB_SIDES];
		const struct lab_figures *k = &f[LAB_KERNEL], *x = &f[LAB_FLEXTOE];
		int err;

		if (!bench_wants(run, cases[i].name))
			continue;
		err = measure_both(run, cases[i].name, &lab_tap, "echo", &load, f);
		if (err)
			return err;
		bench_add(run, cases[i].name, "rate", "connections/s", x->rate, k->rate);
		bench_add(run, cases[i].name, "p50", "us", x->p50_us, k->p50_us);
		bench_add(run, cases[i].name, "p99", "us", x->p99_us, k->p99_us);
		bench_add(run, cases[i].name, "host-cycles", "cycles/connection",
			x->app_cycles + x->engine_cycles, k->app_cycles);
		bench_add(run, cases[i].name, "client-cpu", "% of a core", 100 * x->client_share,
			100 * k->client_share);
	}
	snprintf(run->note, sizeof(run->note),
		"Connections opened by a kernel client, used for one 64-byte echo and closed, so many at a "
		"time.");
	return 0;
}

extern const struct bench bench_bulk, bench_connrate;
const struct bench bench_bulk = {
	"bulk", "one stream, receiving and sending, against a kernel peer", bulk_run};
const struct bench bench_connrate = {"connrate", "connections opened, used once and closed", connrate_run};
