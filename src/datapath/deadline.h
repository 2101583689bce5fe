/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * When a connection's retransmission timer is due, for the protocol stage, which acts on it, and the control
 * plane, which watches it.
 */
#ifndef DATAPATH_DEADLINE_H
#define DATAPATH_DEADLINE_H

#include "core/conn.h"

#define PTO_MIN_US	 10000u	 /* a probe is not worth it earlier: the timers' grain, and the peer's */
#define PTO_ACK_DELAY_US 200000u /* RFC 8985 7.2, TLP.max_ack_delay */

/*
 * With TCPF_RTO_ARMED: when something is to be done. Before the retransmission, two round trips after the
 * last ACK, comes the tail loss probe (RFC 8985 7.2), where the connection can do with one: SACK, and no
 * trouble yet. With less than two full segments in flight the peer may be delaying its ACK.
 */
static inline uint32_t protocol_deadline(const struct tcp_state *t)
{
	uint32_t pto = t->srtt_us / 4u;

	if ((t->flags & (TCPF_SACK | TCPF_PERSIST | TCPF_RECOVERY | TCPF_RTO_RECOVERY)) != TCPF_SACK ||
		t->dupacks || t->backoff || !t->srtt_us)
		return t->rto_deadline_us;
	if (pto < PTO_MIN_US)
		pto = PTO_MIN_US;
	if (t->snd_max - t->snd_una < 2u * t->mss)
		pto += PTO_ACK_DELAY_US;
	return pto < t->rto_us ? t->rto_deadline_us - (t->rto_us - pto) : t->rto_deadline_us;
}

#endif
