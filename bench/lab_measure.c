// SPDX-License-Identifier: BSD-3-Clause
/*
 * One measurement: ft-load in the client's namespace on the client's core, and the processor time that the
 * server and flextoed spend between its "begin" and its result.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lab.h"
#include "core/platform.h"

static double json_number(const char *json, const char *key)
{
	char quoted[32];
	const char *at;

	snprintf(quoted, sizeof(quoted), "\"%s\":", key);
	at = strstr(json, quoted);
	return at ? atof(at + strlen(quoted)) : 0;
}

int lab_measure(struct lab *lab, enum lab_side side, const struct lab_child *server,
	const struct lab_load *load, struct lab_figures *out)
{
	char program[512], where[64], connections[16], pipeline[16], size[16], warmup[32], seconds[32],
		line[1024];
	double app_s, engine_s, hz = bench_tsc_hz(), span_s, units;
	struct lab_child *client;
	bool ok;

	if (!bench_program("ft-load", program, sizeof(program))) {
		fprintf(stderr, "flextoe bench: ft-load is not there: build first\n");
		return -ENOENT;
	}
	snprintf(where, sizeof(where), "%s:%u", lab_addr(side), load->port);
	snprintf(connections, sizeof(connections), "%u", load->connections);
	snprintf(pipeline, sizeof(pipeline), "%u", load->pipeline);
	snprintf(size, sizeof(size), "%u", load->size);
	snprintf(warmup, sizeof(warmup), "%.3f", load->warmup_s);
	snprintf(seconds, sizeof(seconds), "%.3f", load->seconds);
	client = lab_spawn(lab, lab->client_ns, LAB_CLIENT_CPU,
		(const char *const[]){program, load->mode, "--server", where, "--connections", connections,
			"--pipeline", pipeline, "--size", size, "--warmup", warmup, "--seconds", seconds,
			NULL});
	if (!client)
		return -EIO;
	ok = lab_await(client, "begin", line, sizeof(line));
	app_s = lab_cpu_s(server->pid);
	engine_s = side == LAB_FLEXTOE ? lab_cpu_s(lab->flextoed->pid) : 0;
	ok = ok && lab_await(client, "{", line, sizeof(line));
	app_s = lab_cpu_s(server->pid) - app_s;
	engine_s = side == LAB_FLEXTOE ? lab_cpu_s(lab->flextoed->pid) - engine_s : 0;
	lab_stop(lab, client);
	if (!ok) {
		fprintf(stderr, "flextoe bench: the client failed against %s (%s)\n", where,
			side == LAB_KERNEL ? "kernel TCP" : "FlexTOE");
		return -EIO;
	}
	span_s = json_number(line, "seconds");
	out->rate = json_number(line, "operations") / span_s;
	out->bytes_rate = json_number(line, "bytes") / span_s;
	out->p50_us = json_number(line, "p50_us");
	out->p99_us = json_number(line, "p99_us");
	out->p999_us = json_number(line, "p99.9_us");
	units = (out->rate > 0 ? out->rate : out->bytes_rate / 1024) * span_s;
	out->app_cycles = app_s * hz / units;
	out->engine_cycles = engine_s * hz / units;
	out->app_share = app_s / span_s;
	out->engine_share = engine_s / span_s;
	out->client_share = json_number(line, "cpu_seconds") / span_s;
	return 0;
}

void lab_median(const struct lab_figures *runs, unsigned n, struct lab_figures *out)
{
	/* a struct of doubles alone: the median is taken field by field */
	enum { FIELDS = sizeof(struct lab_figures) / sizeof(double) };
	double values[64];
	unsigned f, i;

	for (f = 0; f < FIELDS; f++) {
		for (i = 0; i < n && i < ARRAY_SIZE(values); i++)
			memcpy(&values[i], (const char *)&runs[i] + f * sizeof(double), sizeof(double));
		values[0] = bench_median(values, i);
		memcpy((char *)out + f * sizeof(double), &values[0], sizeof(double));
	}
}
