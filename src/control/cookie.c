/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SYN cookies (RFC 4987 3.6): when a listener's backlog is full of handshakes, the answer to another SYN
 * keeps nothing here; what must be remembered travels in our initial sequence number and comes back with the
 * ACK. handshake.c asks for one, and has one judged. No state but the secret; control plane's thread.
 *
 *     ISS       3 bits  which of eight segment sizes
 *              14 bits  seal: keyed hash of the four-tuple, the period, the size and the 15 bits
 *              15 bits  keyed hash of the four-tuple, the period, the size and the peer's initial sequence
 * number TS val    5 bits, the lowest: window scale (15: none), SACK permitted
 *
 * A peer without timestamps gets neither window scale nor SACK this way. A cookie is good in the period it
 * was made in and in the next one. To guess one takes 2^28 segments, and only while the listener gives them
 * out. The hash is in two parts because a segment may come before the one that should be first: then the
 * first part fits and the second does not, and the peer, which believes in its connection, is not to be
 * reset.
 */
#include <string.h>

#include "control/state.h"
#include "core/siphash.h"

#define IRS_MASK    0x7fffu
#define SEAL_SHIFT  15u
#define SEAL_MASK   0x3fffu
#define SIZE_SHIFT  29u
#define WSCALE_NONE 15u

static const uint16_t sizes[8] = {64, 256, 536, 1220, 1400, 1460, 8960, 65495};

static uint32_t cookie_period(const struct control *ctl)
{
	return (uint32_t)(ctl->now_us / COOKIE_PERIOD_US);
}

static uint32_t cookie_hash(
	const struct control *ctl, const struct flow_key *key, uint32_t period, uint32_t size, uint32_t what)
{
	/* a function of its own, see segment_iss() and flow_key_hash() */
	const uint64_t k[2] = {ctl->secret[0] ^ 0x73796e2d636f6f6bull, ctl->secret[1]};
	struct {
		struct flow_key key;
		uint32_t period, size, what;
	} in = {.key = *key, .period = period, .size = size, .what = what};

	return (uint32_t)siphash(k, &in, sizeof(in));
}

/* The sizes beyond those there are make it another function. */
static uint32_t cookie_seal(const struct control *ctl, const struct flow_key *key, uint32_t period,
	uint32_t size, uint32_t irs_bits)
{
	return cookie_hash(ctl, key, period, size + ARRAY_SIZE(sizes), irs_bits) & SEAL_MASK;
}

uint32_t cookie_make(const struct control *ctl, const struct flow_key *key, uint32_t irs, uint16_t mss)
{
	uint32_t period = cookie_period(ctl), size = 0, irs_bits;

	while (size + 1u < ARRAY_SIZE(sizes) && sizes[size + 1u] <= mss)
		size++;
	irs_bits = cookie_hash(ctl, key, period, size, irs) & IRS_MASK;
	return size << SIZE_SHIFT | cookie_seal(ctl, key, period, size, irs_bits) << SEAL_SHIFT | irs_bits;
}

enum cookie cookie_check(
	const struct control *ctl, const struct flow_key *key, uint32_t irs, uint32_t iss, uint16_t *mss)
{
	uint32_t size = iss >> SIZE_SHIFT, seal = iss >> SEAL_SHIFT & SEAL_MASK, irs_bits = iss & IRS_MASK;
	enum cookie found = COOKIE_BAD;

	*mss = sizes[size];
	for (uint32_t age = 0; age < 2; age++) {
		uint32_t period = cookie_period(ctl) - age;

		if (cookie_seal(ctl, key, period, size, irs_bits) != seal)
			continue;
		if ((cookie_hash(ctl, key, period, size, irs) & IRS_MASK) == irs_bits)
			return COOKIE_GOOD;
		found = COOKIE_EARLY;
	}
	return found;
}

uint32_t cookie_timestamp(const struct control *ctl, const struct tcp_options *o)
{
	uint32_t now = timestamp_now(ctl), bits = o->has_wscale ? o->wscale : WSCALE_NONE, value;

	bits = bits << 1 | o->sack_permitted;
	value = (now & ~31u) | bits;
	return seq_gt(value, now) ? value - 32u : value; /* the connection's own must not lie before it */
}

void cookie_options(uint32_t tsecr, struct tcp_options *o)
{
	o->sack_permitted = tsecr & 1u;
	o->wscale = tsecr >> 1 & 15u;
	o->has_wscale = o->wscale != WSCALE_NONE;
	if (!o->has_wscale)
		o->wscale = 0;
}
