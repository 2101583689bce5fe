/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See checksum.h. The loops are plain so that compilers make vector code of them; the best variant for the
 * machine is picked by the loader (function multiversioning), once.
 */
#include "core/checksum.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&     \
	!defined(__SANITIZE_THREAD__)
#define VARIANTS __attribute__((target_clones("avx512bw,avx512f", "avx2", "default")))
#undef VARIANTS
#define VARIANTS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define VARIANTS
#endif

static uint64_t tail_sum(const uint8_t *p, size_t len, uint64_t sum)
{
	uint32_t w32;
	uint16_t w16;

	if (len & 4u) {
		memcpy(&w32, p, 4);
		sum += w32;
		p += 4;
	}
	if (len & 2u) {
		memcpy(&w16, p, 2);
		sum += w16;
		p += 2;
	}
	if (len & 1u)
		sum += *p; /* little-endian: the byte is the word's first */
	return sum;
}

/* n bytes, a multiple of 32. */
VARIANTS static uint64_t block_sum(const uint8_t *p, size_t n)
{
	uint64_t lanes[4] = {0, 0, 0, 0};

	for (size_t i = 0; i < n; i += 32) {
		uint32_t w[8];

		memcpy(w, p + i, 32);
		for (unsigned k = 0; k < 4; k++)
			lanes[k] += (uint64_t)w[k] + w[k + 4];
	}
	return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

uint64_t checksum_add(const void *p, size_t len, uint64_t sum)
{
	const uint8_t *b = p;
	size_t n = len & ~(size_t)31;

	if (n)
		sum += block_sum(b, n);
	b += n;
	len -= n;
	for (; len >= 8; len -= 8, b += 8) {
		uint32_t w[2];

		memcpy(w, b, 8);
		sum += (uint64_t)w[0] + w[1];
	}
	return tail_sum(b, len, sum);
}

uint64_t checksum_copy(void *dst, const void *src, size_t len, uint64_t sum)
{
	/* in pieces that stay in the first-level cache between the two passes */
	enum { PIECE = 4096 };
	uint8_t *d = dst;
	const uint8_t *s = src;

	while (len > PIECE) {
		memcpy(d, s, PIECE);
		sum = checksum_add(d, PIECE, sum);
		d += PIECE;
		s += PIECE;
		len -= PIECE;
	}
	memcpy(d, s, len);
	return checksum_add(d, len, sum);
}
