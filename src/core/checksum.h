/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The Internet checksum (RFC 1071): sums of 16-bit words in the order they lie in memory, so results are
 * stored without swapping. Sums are unfolded 32- or 64-bit values; checksum_fold() makes the 16 bits.
 */
#ifndef CORE_CHECKSUM_H
#define CORE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Sum of len bytes at p, added to sum. A last odd byte counts as if a zero followed. */
uint64_t checksum_add(const void *p, size_t len, uint64_t sum);

/* The same while copying. dst and src must not overlap. */
uint64_t checksum_copy(void *dst, const void *src, size_t len, uint64_t sum);

/* Folded to 16 bits, not complemented. */
static inline uint16_t checksum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffffu) + (sum >> 32);
	sum = (sum & 0xffffffffu) + (sum >> 32);
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	return (uint16_t)sum;
}

/* Checksum of a whole block: what goes into a header whose field was 0; 0 when the block with its field is
 * right. */
static inline uint16_t checksum_of(const void *p, size_t len)
{
	return (uint16_t)~checksum_fold(checksum_add(p, len, 0));
}

/* Unfolded sum of a TCP pseudo header over IPv4, addresses in wire order, length in bytes. */
static inline uint64_t checksum_pseudo(uint32_t src, uint32_t dst, uint32_t tcp_len)
{
	return (uint64_t)src + dst +
	       ((uint32_t)__builtin_bswap16((uint16_t)tcp_len) + (uint32_t)__builtin_bswap16(6));
}

#endif
