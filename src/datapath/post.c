/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * post: headers of what goes out, from the identity of the connection and the protocol's plan. Reads only;
 * may run in any number of copies.
 */
#include "datapath/stages.h"

#include "core/checksum.h"

#define TS_OPTION_ALIGNED 0x0a080101u

struct headers {
	struct eth_hdr eth;
	struct ipv4_hdr ip;
	struct tcp_hdr tcp;
	uint32_t ts[3]; /* the option, when negotiated */
} __attribute__((packed));

uint32_t post_headers(struct datapath *dp, const struct port *port, const struct conn *c,
	const struct tx_plan *plan, struct frame *frame)
{
	struct headers *h = (struct headers *)frame->data;
	const struct conn_identity *id = &c->id;
	uint32_t hdr_len = sizeof(*h), tcp_len;
	uint32_t sum, ip_sum;

	memcpy(h->eth.dst, id->remote_mac, 6);
	memcpy(h->eth.src, port->mac, 6);
	h->eth.type = to_be16(ETHTYPE_IPV4_);
	if (c->tcp.flags & TCPF_TIMESTAMPS) {
		h->ts[0] = TS_OPTION_ALIGNED;
		h->ts[1] = to_be32(dp->now_ms);
		h->ts[2] = to_be32(c->tcp.ts_recent);
		h->tcp.data_off = 8u << 4;
	} else {
		hdr_len -= 12u;
		h->tcp.data_off = 5u << 4;
	}
	tcp_len = hdr_len - (uint32_t)sizeof(h->eth) - (uint32_t)sizeof(h->ip) + plan->len;

	h->ip.version_ihl = 0x45;
	h->ip.tos = id->tos;
	h->ip.total_len = to_be16((uint16_t)(tcp_len + sizeof(h->ip)));
	h->ip.id = 0; /* RFC 6864: atomic datagrams need none */
	h->ip.frag = to_be16(IPV4_DF_);
	h->ip.ttl = id->ttl;
	h->ip.protocol = IPPROTO_TCP_;
	h->ip.src = id->local_addr[3];
	h->ip.dst = id->remote_addr[3];
	sum = id->pseudo_sum; /* of the addresses and the protocol, which lies alike in both headers */
	ip_sum = sum + 0x45u + ((uint32_t)id->tos << 8) + h->ip.total_len + h->ip.frag + id->ttl;
	ip_sum = (ip_sum & 0xffffu) + (ip_sum >> 16);
	ip_sum = (ip_sum & 0xffffu) + (ip_sum >> 16);
	h->ip.checksum = (be16)~ip_sum;

	h->tcp.src_port = id->local_port;
	h->tcp.dst_port = id->remote_port;
	h->tcp.seq = to_be32(plan->seq);
	h->tcp.ack = to_be32(plan->ack);
	h->tcp.flags = plan->flags;
	h->tcp.wnd = to_be16(plan->wnd);
	h->tcp.urg = 0;
	sum += to_be16((uint16_t)tcp_len);
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	h->tcp.checksum = (be16)sum; /* the pseudo header's; whoever completes the checksum adds the rest */

	frame->len = hdr_len;
	frame->hdr_len = (uint16_t)hdr_len;
	frame->flags = FRAME_CSUM_OFFLOAD;
	frame->csum_start = sizeof(h->eth) + sizeof(h->ip);
	frame->csum_offset = 16;
	frame->frag_count = 0;
	frame->gso_size = 0;
	if (plan->len > c->tcp.mss) {
		frame->flags |= FRAME_TSO;
		frame->gso_size = c->tcp.mss;
	}
	return hdr_len;
}

void post_checksum(struct frame *frame)
{
	struct tcp_hdr *tcp = (struct tcp_hdr *)(frame->data + frame->csum_start);
	uint32_t at = frame->len - frame->csum_start;
	uint64_t sum = checksum_add(tcp, at, 0);

	for (unsigned i = 0; i < frame->frag_count; i++) {
		uint32_t part = checksum_fold(checksum_add(frame->frag[i].data, frame->frag[i].len, 0));

		/* RFC 1071 2: behind an odd number of bytes a sum counts with its two bytes swapped */
		sum += at & 1u ? (part >> 8 | (part & 0xffu) << 8) : part;
		at += frame->frag[i].len;
	}
	tcp->checksum = (be16)~checksum_fold(sum);
	frame->flags &= (uint16_t)~FRAME_CSUM_OFFLOAD;
}
