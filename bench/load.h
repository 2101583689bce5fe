/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ft-load, the client of the benchmarks and the demo: what its files share. It is an ordinary Linux program
 * on kernel sockets, one thread, and knows nothing of FlexTOE.
 *
 * What it prints on standard output is for the program that started it: "begin" when the measured time begins
 * (after the warm-up), then one JSON object. Everything for people goes to standard error.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/histogram.h"

struct load_options {
	struct sockaddr_in server;
	unsigned connections;
	unsigned pipeline;
	unsigned size; /* payload bytes of a message, or of a value */
	unsigned keys; /* memcached: in use */
	unsigned get_percent;
	double warmup_s, seconds;
};

/* A request and the exact bytes that must come back. */
struct exchange {
	const char *request, *reply;
	uint32_t request_len, reply_len;
};

/* Where exchanges come from: all are made before the clock starts. */
struct workload {
	struct exchange *exchanges;
	uint32_t count;	      /* first those of the one kind, then those of the other */
	uint32_t first_count; /* of the first kind */
	uint32_t first_percent;
	uint32_t request_max, reply_max;
	uint64_t random; /* state of the generator */
};

/* What a run reports. */
struct load_result {
	uint64_t operations, bytes;
	double seconds, cpu_seconds;
	struct histogram *latency; /* in cycles */
};

static inline uint64_t load_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

int workload_echo(struct workload *w, const struct load_options *options);
/* Also stores every key, so that no get can miss. */
int workload_memcached(struct workload *w, const struct load_options *options);

static inline const struct exchange *workload_next(struct workload *w)
{
	uint64_t r = load_random(&w->random);

	if ((uint32_t)(r >> 40) % 100 < w->first_percent)
		return &w->exchanges[(uint32_t)r % w->first_count];
	return &w->exchanges[w->first_count + (uint32_t)r % (w->count - w->first_count)];
}

/* Each returns 0, or a negative errno value after saying why on standard error. */
int load_run_exchanges(const struct load_options *options, struct workload *w, struct load_result *result);
int load_run_connrate(const struct load_options *options, struct workload *w, struct load_result *result);
int load_run_send(const struct load_options *options, struct load_result *result);
int load_run_receive(const struct load_options *options, struct load_result *result);
int load_run_hold(const struct load_options *options, struct workload *w);

/* For the runs above. */
int load_connect(const struct load_options *options, bool wait); /* a descriptor, non-blocking after it */
double load_now_s(void);
double load_cpu_s(void);
void load_begin(void); /* says "begin" */

#endif
