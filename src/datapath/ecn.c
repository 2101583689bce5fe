/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ECN on connections that negotiated it (RFC 3168): marks received are echoed, echoes are counted and told,
 * and new data is sent ECN-capable. Part of post: its state are the HOST_* flags, and what the peer echoed in
 * datapath.marked. Pure ACKs, retransmissions, probes and RST are sent without ECT (RFC 3168 6.1.4 to 6.1.6).
 */
#include "datapath/stages.h"

#include "core/checksum.h"
#include "core/seq.h"

#define ECN_CE	 3u
#define ECN_ECT0 2u

COLD bool ecn_arrives(struct datapath *dp, struct conn *c, const struct segment *s, uint8_t ecn)
{
	bool ce = ecn == ECN_CE;
	uint16_t before = c->host.flags & HOST_ECE;

	/* RFC 3168 6.1.5: no heed to what lies outside the window, which anybody may have sent */
	if (!s->len || seq_leq(s->seq + s->len, c->tcp.rcv_nxt) || seq_geq(s->seq, c->tcp.rcv_adv))
		return false;
	if (ce)
		count(dp, CNT_rx_ecn_marked);
	if (c->host.flags & HOST_DCTCP)
		return ce != (before != 0);
	if (s->flags & TCP_CWR_)
		c->host.flags &= (uint16_t)~HOST_ECE;
	if (ce)
		c->host.flags |= HOST_ECE;
	return false;
}

COLD void ecn_echo(
	struct datapath *dp, struct conn *c, uint32_t index, const struct segment *s, const struct verdict *v)
{
	if ((s->flags & (TCP_ECE_ | TCP_ACK_ | TCP_SYN_ | TCP_RST_)) != (TCP_ECE_ | TCP_ACK_))
		return;
	if (!v->acked && s->ack != c->tcp.snd_una) /* not taken: late, or made up */
		return;
	dp->marked[index] += v->acked;
	if (!(c->host.flags & HOST_CWR)) /* else it was acted on, and the peer has not heard of it yet */
		ctl_event(dp, c, index, CONN_EVENT_MARK);
}

COLD void ecn_sends(struct conn *c, const struct tx_plan *plan, struct frame *frame)
{
	struct ipv4_hdr *ip = (struct ipv4_hdr *)(frame->data + sizeof(struct eth_hdr));
	struct tcp_hdr *tcp = (struct tcp_hdr *)(ip + 1);

	if (c->host.flags & HOST_ECE && !(plan->flags & TCP_RST_))
		tcp->flags |= TCP_ECE_;
	if (!plan->len || plan->retransmission || c->tcp.flags & TCPF_PERSIST)
		return;
	if (c->host.flags & HOST_CWR) { /* RFC 3168 6.1.2: on the first new data after the reduction */
		c->host.flags &= (uint16_t)~HOST_CWR;
		tcp->flags |= TCP_CWR_;
	}
	ip->tos |= ECN_ECT0;
	ip->checksum = 0;
	ip->checksum = checksum_of(ip, sizeof(*ip));
}
