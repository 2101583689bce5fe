/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is asked of a live connection's TCP state now and then, by the control plane or as a hint of its
 * application: pure functions like those of protocol.c. Called by ctl.c for control work, and by protocol.c.
 */
#include "datapath/protocol.h"
#include "datapath/recovery.h"

#include "core/seq.h"
#include "flextoe/abi.h"

void protocol_hints(struct tcp_state *t, uint32_t flags, bool *send)
{
	if (flags & FLEXTOE_HC_MORE) {
		t->flags |= TCPF_CORK;
	} else if ((flags & FLEXTOE_HC_PUSH) && (t->flags & TCPF_CORK)) {
		t->flags &= (uint16_t)~TCPF_CORK;
		*send = true;
	}
	if (flags & FLEXTOE_HC_QUICKACK) {
		t->quick_acks = QUICK_ACKS_ASKED;
		if (t->flags & TCPF_ACK_DELAYED)
			t->due |= DUE_ACK;
	}
	if (flags & FLEXTOE_HC_SLOWACK)
		t->quick_acks = 0;
}

bool protocol_keepalive(struct tcp_state *t, struct tx_plan *plan)
{
	if (protocol_ended(t) || t->snd_una != t->snd_max || seq_gt(t->tx_end, t->snd_nxt) ||
		(t->flags & TCPF_PERSIST))
		return false;
	if (t->probes < UINT8_MAX)
		t->probes++;
	protocol_ack(t, plan);
	plan->seq = t->snd_una - 1u; /* RFC 9293 3.8.4: SEG.SEQ = SND.NXT-1, which must be answered */
	return true;
}

/*
 * RFC 1191 6.4: not a sign of congestion, so the window stays. Sent again as after a timeout, whose
 * bookkeeping keeps duplicate ACKs from being taken for a loss until `recover`.
 */
void protocol_mss(struct tcp_state *t, struct ooo_pool *pool, uint32_t mss, bool *send)
{
	if (protocol_ended(t) || mss >= t->mss)
		return;
	t->mss = (uint16_t)mss;
	if (t->snd_una == t->snd_max || (t->flags & TCPF_PERSIST))
		return;
	recovery_forget(t, pool);
	t->snd_nxt = t->snd_una;
	t->recover = t->snd_max;
	t->dupacks = 0;
	t->flags = (uint16_t)((t->flags & ~(TCPF_RECOVERY | TCPF_RTT_TIMING)) | TCPF_RTO_RECOVERY);
	t->due &= (uint8_t)~DUE_RETRANSMIT;
	*send = true;
}

void protocol_window(struct tcp_state *t, uint32_t cwnd, uint32_t ssthresh)
{
	if (ssthresh)
		t->ssthresh = max_u32(ssthresh, 2u * t->mss); /* RFC 5681 3.1 (4) */
	if (cwnd && !(t->flags & (TCPF_RECOVERY | TCPF_RTO_RECOVERY)))
		t->cwnd = min_u32(max_u32(cwnd, t->mss), 2u << t->tx_shift);
}
