/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Path MTU discovery (RFC 1191): everything leaves with DF set, and a router that cannot pass it on says so.
 * What it says goes to the connection that it quotes, and for ten minutes to new ones to the same address
 * (then larger segments are tried again). A report counts only when it quotes bytes in flight (RFC 5927 4.1,
 * asked by icmp.c), lowers what is known, and never goes below 552: a forged one can do little harm. Not
 * RFC 1191 6.3: a connection that is open never tries to grow again. Control plane's thread.
 */
#include "control/state.h"

#define PMTU_VALID_US 600000000ull /* RFC 1191 6.3: ten minutes */
#define PMTU_MIN      552u	   /* as Linux: 512 + 40 */

/* RFC 1191 7.1: for routers that do not tell. */
static uint32_t plateau_below(uint32_t total)
{
	static const uint16_t plateau[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006, 508};

	for (unsigned i = 0; i < ARRAY_SIZE(plateau); i++)
		if (plateau[i] < total)
			return plateau[i];
	return PMTU_MIN;
}

static struct pmtu *pmtu_slot(struct control *ctl, be32 addr)
{
	struct flow_key key = {.remote_addr = addr};

	return &ctl->pmtu[flow_key_hash(ctl, &key) % PMTUS];
}

uint32_t pmtu_of(struct control *ctl, be32 addr)
{
	const struct pmtu *p = pmtu_slot(ctl, addr);

	return p->addr == addr && p->until_us > ctl->now_us ? p->mtu : UINT32_MAX;
}

void pmtu_told(struct control *ctl, uint32_t index, uint32_t mtu, uint32_t quoted_len)
{
	const struct conn *conn = datapath_conn(ctl->dp, index);
	be32 addr = ctl->conns[index].flow.key.remote_addr;
	struct ctl_mtu record = {.type = CTL_MTU, .conn = index};
	struct pmtu *p = pmtu_slot(ctl, addr);

	if (!mtu)
		mtu = plateau_below(quoted_len);
	mtu = max_u32(mtu, PMTU_MIN);
	if (mtu >= (uint32_t)conn->tcp.mss + 40u + (conn->tcp.flags & TCPF_TIMESTAMPS ? 12u : 0u))
		return; /* nothing new: one report comes for every packet in flight */
	COUNT(ctl, pmtu_lowered);
	*p = (struct pmtu){.addr = addr, .mtu = (uint16_t)mtu, .until_us = ctl->now_us + PMTU_VALID_US};
	record.mtu = mtu;
	datapath_ctl(ctl->dp, &record, sizeof(record));
}
