/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pre: from a frame to a segment. Checks every length before it reads behind it, verifies the checksums that
 * the device has not, and sorts out what is not for the data path. Owns no state; may run in any number of
 * copies. RFC 791 and RFC 9293 3.1 for the headers, RFC 7323 for the timestamps.
 */
#include "datapath/stages.h"

#include "core/checksum.h"

#define TS_OPTION_ALIGNED 0x0a080101u /* NOP, NOP, timestamps, 10: as it lies in memory */

/* Options of a segment that are not just aligned timestamps. False: the list is malformed (RFC 9293 3.2). */
static bool options_parse(const uint8_t *p, uint32_t len, struct segment *seg)
{
	uint32_t v;

	while (len) {
		uint32_t size;

		if (p[0] == TCPOPT_EOL_)
			return true;
		if (p[0] == TCPOPT_NOP_) {
			p++;
			len--;
			continue;
		}
		if (len < 2 || p[1] < 2 || p[1] > len)
			return false;
		size = p[1];
		if (p[0] == TCPOPT_TS_ && size == 10) {
			memcpy(&v, p + 2, 4);
			seg->tsval = from_be32(v);
			memcpy(&v, p + 6, 4);
			seg->tsecr = from_be32(v);
			seg->has_ts = 1;
		}
		p += size;
		len -= size;
	}
	return true;
}

/* The checksum of a header without options, which nearly all are. */
static inline bool ipv4_checksum_good(const struct ipv4_hdr *ip, uint32_t ihl)
{
	uint64_t a, b, sum;
	uint32_t c;

	if (unlikely(ihl != sizeof(*ip)))
		return checksum_of(ip, ihl) == 0;
	memcpy(&a, ip, 8);
	memcpy(&b, (const uint8_t *)ip + 8, 8);
	memcpy(&c, (const uint8_t *)ip + 16, 4);
	sum = (a & 0xffffffffu) + (a >> 32) + (b & 0xffffffffu) + (b >> 32) + c;
	sum = (sum & 0xffffu) + (sum >> 16 & 0xffffu) + (sum >> 32);
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	return sum == 0xffffu;
}

static inline bool mac_equal(const uint8_t *a, const uint8_t *b)
{
	uint32_t a4, b4;
	uint16_t a2, b2;

	memcpy(&a4, a, 4);
	memcpy(&b4, b, 4);
	memcpy(&a2, a + 4, 2);
	memcpy(&b2, b + 4, 2);
	return ((a4 ^ b4) | (uint32_t)(a2 ^ b2)) == 0;
}

/*
 * The frame nearly all are: to our address, IPv4 without options or fragments, TCP with aligned timestamps
 * alone, the checksum vouched for. Compares whole words where the plain path below asks field by field; what
 * it does not recognize it leaves to that path, which decides.
 */
static HOT_INLINE bool parse_usual(
	struct datapath *dp, const struct port *port, struct frame *frame, struct rx_item *item)
{
	const uint8_t *p = frame->data;
	const struct ipv4_hdr *ip = (const struct ipv4_hdr *)(p + sizeof(struct eth_hdr));
	const struct tcp_hdr *tcp = (const struct tcp_hdr *)(ip + 1);
	uint32_t type_version, frag_protocol, ports, total;
	uint32_t opt[3];

	if (unlikely(frame->len < sizeof(struct eth_hdr) + 52u || !(frame->flags & FRAME_CSUM_GOOD)))
		return false;
	memcpy(&type_version, p + 12, 4);
	memcpy(&frag_protocol, p + 20, 4);
	memcpy(&ports, tcp, 4);
	memcpy(opt, tcp + 1, 12);
	total = from_be16(ip->total_len);
	if (unlikely(!mac_equal(p, port->mac) || (type_version & 0xffffffu) != 0x450008u ||
		     (frag_protocol & 0xff00ff3fu) != 0x06000000u || tcp->data_off >> 4 != 8 ||
		     opt[0] != TS_OPTION_ALIGNED || total < 52u ||
		     total > frame->len - sizeof(struct eth_hdr) || !(ports & 0xffffu) || !(ports >> 16) ||
		     !ipv4_checksum_good(ip, sizeof(*ip))))
		return false;
	item->frame = frame;
	item->payload = (const uint8_t *)tcp + 32u;
	item->seg = (struct segment){.seq = from_be32(tcp->seq),
		.ack = from_be32(tcp->ack),
		.len = total - 52u,
		.wnd = from_be16(tcp->wnd),
		.flags = tcp->flags,
		.has_ts = 1,
		.tsval = from_be32(opt[1]),
		.tsecr = from_be32(opt[2])};
	item->local_addr = ip->dst;
	item->remote_addr = ip->src;
	item->ports = ports << 16 | ports >> 16;
	item->ip_bytes = (uint32_t)sizeof(struct eth_hdr) + total;
	item->hash = flow_hash(&dp->flows, ip->dst, ip->src, (be16)item->ports, (be16)(item->ports >> 16));
	return true;
}

/* Every other frame, field by field. */
COLD static enum pre_result parse_any(
	struct datapath *dp, const struct port *port, struct frame *frame, struct rx_item *item)
{
	const struct eth_hdr *eth = (const struct eth_hdr *)frame->data;
	const struct ipv4_hdr *ip;
	const struct tcp_hdr *tcp;
	uint32_t ihl, total, tcp_len, off;
	enum counter reason;

	reason = CNT_drop_short;
	if (unlikely(frame->len < sizeof(*eth)))
		goto drop;
	if (unlikely(!mac_equal(eth->dst, port->mac))) {
		reason = CNT_drop_not_for_us;
		if (!(eth->dst[0] & 1u) || from_be16(eth->type) != ETHTYPE_ARP_)
			goto drop;
	}
	if (unlikely(eth->type != to_be16(ETHTYPE_IPV4_))) {
		reason = CNT_drop_ethertype;
		if (eth->type != to_be16(ETHTYPE_ARP_))
			goto drop;
		item->ip_bytes = frame->len;
		return PRE_EXCEPTION;
	}
	if (unlikely(frame->len < sizeof(*eth) + sizeof(*ip)))
		goto drop;
	ip = (const struct ipv4_hdr *)(eth + 1);
	ihl = (ip->version_ihl & 15u) * 4u;
	total = from_be16(ip->total_len);
	reason = CNT_drop_ip_header;
	if (unlikely(ip->version_ihl >> 4 != 4 || ihl < sizeof(*ip) || total < ihl ||
		     total > frame->len - sizeof(*eth)))
		goto drop;
	reason = CNT_drop_ip_checksum;
	if (unlikely(!ipv4_checksum_good(ip, ihl)))
		goto drop;
	item->ip_bytes = (uint32_t)sizeof(*eth) + total;
	reason = CNT_drop_ip_fragment;
	if (unlikely(ip->frag & to_be16(IPV4_FRAG_MASK_)))
		goto drop;
	if (unlikely(ip->protocol != IPPROTO_TCP_)) {
		reason = CNT_drop_ip_protocol;
		if (ip->protocol != IPPROTO_ICMP_)
			goto drop;
		return PRE_EXCEPTION;
	}

	tcp_len = total - ihl;
	reason = CNT_drop_tcp_header;
	if (unlikely(tcp_len < sizeof(*tcp)))
		goto drop;
	tcp = (const struct tcp_hdr *)((const uint8_t *)ip + ihl);
	off = (tcp->data_off >> 4) * 4u;
	if (unlikely(off < sizeof(*tcp) || off > tcp_len || tcp->src_port == 0 || tcp->dst_port == 0))
		goto drop;
	if (!(frame->flags & FRAME_CSUM_GOOD)) {
		uint64_t sum = checksum_add(tcp, tcp_len, checksum_pseudo(ip->src, ip->dst, tcp_len));

		reason = CNT_drop_tcp_checksum;
		if (unlikely(checksum_fold(sum) != 0xffffu))
			goto drop;
		frame->flags |= FRAME_CSUM_GOOD;
	}
	item->seg.seq = from_be32(tcp->seq);
	item->seg.ack = from_be32(tcp->ack);
	item->seg.wnd = from_be16(tcp->wnd);
	item->seg.flags = tcp->flags;
	item->seg.has_ts = 0;
	item->seg.tsval = item->seg.tsecr = 0;
	item->seg.len = tcp_len - off;
	item->payload = (const uint8_t *)tcp + off;
	if (likely(off == sizeof(*tcp) + 12u)) {
		const uint8_t *opt = (const uint8_t *)(tcp + 1);
		uint32_t w[3];

		memcpy(w, opt, 12);
		if (likely(w[0] == TS_OPTION_ALIGNED)) {
			item->seg.has_ts = 1;
			item->seg.tsval = from_be32(w[1]);
			item->seg.tsecr = from_be32(w[2]);
			off = sizeof(*tcp);
		}
	}
	if (unlikely(off != sizeof(*tcp))) {
		reason = CNT_drop_tcp_option;
		if (!options_parse((const uint8_t *)(tcp + 1), off - (uint32_t)sizeof(*tcp), &item->seg))
			goto drop;
	}
	item->frame = frame;
	item->local_addr = ip->dst;
	item->remote_addr = ip->src;
	item->ports = (uint32_t)tcp->dst_port | (uint32_t)tcp->src_port << 16;
	item->hash = flow_hash(&dp->flows, ip->dst, ip->src, tcp->dst_port, tcp->src_port);
	return PRE_SEGMENT;

drop:
	count(dp, reason);
	return PRE_DROP;
}

HOT_INLINE enum pre_result pre_parse(
	struct datapath *dp, const struct port *port, struct frame *frame, struct rx_item *item)
{
	return likely(parse_usual(dp, port, frame, item)) ? PRE_SEGMENT : parse_any(dp, port, frame, item);
}
