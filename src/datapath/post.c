/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * post: headers of what goes out, from the identity of the connection and the protocol's plan. Reads only;
 * may run in any number of copies.
 */
#include "datapath/stages.h"

#include "core/checksum.h"

#define HDR_IP	34u /* Ethernet and IPv4 header */
#define HDR_TCP 54u /* and TCP without options */
#define HDR_TS	66u /* and the timestamps */

static inline void put16(uint8_t *p, uint32_t v)
{
	uint16_t v16 = (uint16_t)v;

	memcpy(p, &v16, 2);
}

static inline void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
}

static inline void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, 8);
}

static inline uint32_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return v;
}

/* The ones' complement sum of both halves: the upper half takes the carry of the lower. */
static inline uint32_t fold(uint32_t sum)
{
	return (sum + (sum << 16 | sum >> 16)) >> 16;
}

/*
 * Whole words where the layout allows it; each line names the fields it writes, in their order on the wire. A
 * word that ends beyond its field is overwritten by the next line.
 */
static HOT_INLINE void lay(const struct datapath *dp, const struct port *port, const struct conn *c,
	const struct tx_plan *plan, struct frame *frame, bool timestamps)
{
	const struct conn_identity *id = &c->id;
	uint8_t *p = frame->data;
	uint32_t hdr_len = timestamps ? HDR_TS : HDR_TCP, tcp_len = hdr_len - HDR_IP + plan->len;
	uint32_t total_be = to_be16((uint16_t)(tcp_len + 20u));
	uint32_t version_tos = get16(&id->version_ihl), ttl_protocol = get16(&id->ttl), ports;
	uint64_t remote_mac;

	/* and the two bytes that follow it */
	memcpy(&remote_mac, (const uint8_t *)id + offsetof(struct conn_identity, remote_mac), 8);
	memcpy(&ports, &id->remote_port, 4);
	put64(p, remote_mac);
	put64(p + 6, port->mac_type);
	put32(p + 14, version_tos | total_be << 16); /* version, header length, DSCP and ECN, total length */
	put32(p + 18, 0x00400000u); /* identification 0: RFC 6864, atomic datagrams need none; DF */
	/* pseudo_sum has the addresses and the protocol, which stands in both headers at the same half of a
	 * word */
	put32(p + 22, ttl_protocol | ~fold(id->pseudo_sum + version_tos + total_be + 0x0040u + id->ttl)
					     << 16);
	put32(p + 26, id->local_addr[3]);
	put32(p + 30, id->remote_addr[3]);
	put32(p + 34, ports << 16 | ports >> 16);
	put32(p + 38, to_be32(plan->seq));
	put32(p + 42, to_be32(plan->ack));
	put32(p + 46, (timestamps ? 8u << 4 : 5u << 4) | (uint32_t)plan->flags << 8 |
			      (uint32_t)to_be16(plan->wnd) << 16);
	/* checksum: the pseudo header's, whoever completes it adds the rest; urgent pointer 0 */
	put32(p + 50, fold(id->pseudo_sum + to_be16((uint16_t)tcp_len)));
	if (timestamps) {
		put64(p + 54, dp->ts_option);
		put32(p + 62, to_be32(c->tcp.ts_recent));
	}

	frame->len = hdr_len;
	frame->hdr_len = (uint16_t)hdr_len;
	frame->flags = FRAME_CSUM_OFFLOAD;
	frame->csum_start = HDR_IP;
	frame->csum_offset = 16;
	frame->frag_count = 0;
	frame->gso_size = 0;
	if (unlikely(plan->len > c->tcp.mss)) {
		frame->flags = FRAME_CSUM_OFFLOAD | FRAME_TSO;
		frame->gso_size = c->tcp.mss;
	}
}

/* One copy of the code for each of the two, so that lengths are constants in them. */
HOT_INLINE uint32_t post_headers(const struct datapath *dp, const struct port *port, const struct conn *c,
	const struct tx_plan *plan, struct frame *frame)
{
	if (likely(c->tcp.flags & TCPF_TIMESTAMPS)) {
		lay(dp, port, c, plan, frame, true);
		return HDR_TS;
	}
	lay(dp, port, c, plan, frame, false);
	return HDR_TCP;
}
_Static_assert(offsetof(struct conn_identity, local_port) == offsetof(struct conn_identity, remote_port) + 2,
	"the ports are read together");
_Static_assert(offsetof(struct conn_identity, tos) == offsetof(struct conn_identity, version_ihl) + 1 &&
		       offsetof(struct conn_identity, protocol) == offsetof(struct conn_identity, ttl) + 1,
	"pieces of the IPv4 header as it lies on the wire");

void post_sack(struct datapath *dp, const struct conn *c, struct frame *frame)
{
	struct ipv4_hdr *ip = (struct ipv4_hdr *)(frame->data + sizeof(struct eth_hdr));
	struct tcp_hdr *tcp = (struct tcp_hdr *)(frame->data + HDR_IP);
	uint32_t block[SACK_BLOCKS][2], tcp_len, n;
	uint8_t *p = frame->data + frame->len;

	/* 40 bytes of options: three blocks beside the timestamps, four without */
	n = reassembly_sack(&c->tcp, &dp->ooo, block, c->tcp.flags & TCPF_TIMESTAMPS ? 3u : SACK_BLOCKS);
	if (!n)
		return;
	put32(p, 0x00050101u | (2u + 8u * n) << 24); /* NOP, NOP, kind, length */
	for (uint32_t i = 0; i < n; i++) {
		put32(p + 4 + 8 * i, to_be32(block[i][0]));
		put32(p + 8 + 8 * i, to_be32(block[i][1]));
	}
	frame->len += 4u + 8u * n;
	frame->hdr_len = (uint16_t)frame->len;
	tcp_len = frame->len - HDR_IP;
	tcp->data_off = (uint8_t)(tcp_len / 4u << 4);
	tcp->checksum = (be16)fold(c->id.pseudo_sum + to_be16((uint16_t)tcp_len));
	ip->total_len = to_be16((uint16_t)(tcp_len + 20u));
	ip->checksum = 0;
	ip->checksum = checksum_of(ip, sizeof(*ip));
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
