// SPDX-License-Identifier: BSD-3-Clause
/*
 * `footprint`: how long flextoed takes to start, and how much memory it keeps resident, idle and with 10,000
 * connections that have carried one 64-byte echo each. The kernel has no such process to compare with: its
 * cost of the same connections is read from the growth of its own memory, both ends together.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lab.h"
#include "core/platform.h"

#define CONNECTIONS 10000u
#define STARTS	    5u

static double kernel_slab_kib(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[256];
	double kib = 0;

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "Slab:", 5) == 0)
			kib = atof(line + 5);
	if (f)
		fclose(f);
	return kib;
}

/* Opens the connections, holds them, and reads what they cost. */
static int hold_and_read(struct lab *lab, enum lab_side side, double *resident_kib, double *slab_kib)
{
	char program[512], load[512], where[64], count[16], line[256];
	double slab_before_kib;
	struct lab_child *server, *client;
	int err = -EIO;

	if (!bench_program("ft-echo", program, sizeof(program)) ||
		!bench_program("ft-load", load, sizeof(load))) {
		fprintf(stderr, "flextoe bench: ft-echo or ft-load is not there: build first\n");
		return -ENOENT;
	}
	server = lab_serve(lab, side, (const char *const[]){program, "--listen", "ADDR:7000", NULL}, 7000);
	if (!server)
		return -EIO;
	slab_before_kib = kernel_slab_kib();
	snprintf(where, sizeof(where), "%s:7000", lab_addr(side));
	snprintf(count, sizeof(count), "%u", CONNECTIONS);
	client = lab_spawn(lab, lab->client_ns, LAB_CLIENT_CPU,
		(const char *const[]){load, "hold", "--server", where, "--connections", count, NULL});
	if (client && lab_await(client, "begin", line, sizeof(line))) {
		*resident_kib = side == LAB_FLEXTOE ? lab_resident_kib(lab->flextoed->pid) : 0;
		*slab_kib = kernel_slab_kib() - slab_before_kib;
		err = 0;
	} else {
		fprintf(stderr, "flextoe bench: %u connections could not be opened over %s\n", CONNECTIONS,
			side == LAB_KERNEL ? "kernel TCP" : "FlexTOE");
	}
	lab_stop(lab, client);
	lab_stop(lab, server);
	return err;
}

static int footprint_run(struct bench_run *run)
{
	double startup_s[STARTS], idle_kib = 0, resident_kib, ignored, slab_kib;
	struct lab lab;
	unsigned i;
	int err = 0;

	for (i = 0; !err && i < STARTS; i++) {
		err = lab_open(&lab, &lab_tap);
		startup_s[i] = lab.startup_s;
		if (!err)
			idle_kib = lab_resident_kib(lab.flextoed->pid);
		if (err || i + 1 < STARTS)
			lab_close(&lab);
	}
	if (err)
		return err;
	bench_add(run, "start-up", "time", "ms", bench_median(startup_s, STARTS) * 1000, BENCH_NONE);
	bench_add(run, "idle", "resident", "MiB", idle_kib / 1024, BENCH_NONE);
	bench_progress(run, "%u connections over kernel TCP", CONNECTIONS);
	err = hold_and_read(&lab, LAB_KERNEL, &ignored, &slab_kib);
	if (!err) {
		bench_progress(run, "%u connections over FlexTOE", CONNECTIONS);
		err = hold_and_read(&lab, LAB_FLEXTOE, &resident_kib, &ignored);
	}
	lab_close(&lab);
	if (err)
		return err;
	bench_add(run, "10000", "resident", "MiB", resident_kib / 1024, BENCH_NONE);
	bench_add(run, "10000", "per-connection", "KiB", (resident_kib - idle_kib) / CONNECTIONS,
		slab_kib / 2 / CONNECTIONS);
	snprintf(run->note, sizeof(run->note),
		"resident: of flextoed, with the pages of the application's buffers that it has touched. The "
		"baseline of\n"
		"per-connection is half of what the kernel's slab memory grows by for both ends of the same "
		"connections.");
	return 0;
}

extern const struct bench bench_footprint;
const struct bench bench_footprint = {
	"footprint", "start-up time and resident memory of flextoed", footprint_run};
