/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A latency histogram: 64 linear buckets to each power of two, so that a value is kept to within 1.6 %, over
 * the whole range of 64 bits, in 30 KiB. Adding costs a few cycles. One thread.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS 6u
#define HISTOGRAM_SUB	   (1u << HISTOGRAM_SUB_BITS)

struct histogram {
	uint64_t count;
	uint64_t bucket[(64 - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB];
};

static inline void histogram_add(struct histogram *h, uint64_t v)
{
	unsigned index;

	if (v < HISTOGRAM_SUB) {
		index = (unsigned)v;
	} else {
		unsigned shift = 63u - (unsigned)__builtin_clzll(v) - HISTOGRAM_SUB_BITS;

		index = (shift + 1) * HISTOGRAM_SUB + (unsigned)((v >> shift) - HISTOGRAM_SUB);
	}
	h->bucket[index]++;
	h->count++;
}

/* The middle of the bucket below which `share` (0..1) of the values lie; 0 without values. */
static inline double histogram_quantile(const struct histogram *h, double share)
{
	uint64_t want = (uint64_t)(share * (double)h->count), seen = 0;
	unsigned i, n = sizeof(h->bucket) / sizeof(h->bucket[0]);

	for (i = 0; i < n; i++) {
		seen += h->bucket[i];
		if (seen > want) {
			unsigned shift = i / HISTOGRAM_SUB;

			if (shift == 0)
				return (double)i;
			shift--;
			return ((double)(i % HISTOGRAM_SUB + HISTOGRAM_SUB) + 0.5) * (double)(1ull << shift);
		}
	}
	return 0;
}

#endif
