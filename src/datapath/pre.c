/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pre: from a frame to a segment. Checks every length before it reads behind it, verifies the checksums that
 * the device has not, and sorts out what is not for the data path. Owns no state; may run in any number of
 * copies. RFC 791 and RFC 9293 3.1 for the headers, RFC 7323 for the timestamps, RFC 2018 for SACK blocks.
 */
#include "datapath/stages.h"

#include "core/checksum.h"

/* Options of a segment that are not just aligned timestamps. False: the list is malformed (RFC 9293 3.2). */
static bool options_parse(const uint8_t *p, uint32_t len, struct segment *seg, struct sack_list *sack)
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
		if (len < 2)
			return false;
		size = *(const volatile uint8_t *)(p + 1); /* once: the frame may lie in shared memory */
		if (size < 2 || size > len)
			return false;
		if (p[0] == TCPOPT_TS_ && size == 10) {
			memcpy(&v, p + 2, 4);
			seg->tsval = from_be32(v);
			memcpy(&v, p + 6, 4);
			seg->tsecr = from_be32(v);
			seg->has_ts |= SEGMENT_TS;
		} else if (p[0] == TCPOPT_SACK_ && size >= 10 && size <= 2u + sizeof(sack->block) &&
			   size % 8u == 2) {
			sack->count = size / 8u;
			for (uint32_t i = 0; i < sack->count * 2u; i++) {
				memcpy(&v, p + 2 + 4 * i, 4);
				sack->block[i / 2u][i % 2u] = from_be32(v);
			}
			seg->sack = sack;
			seg->has_ts |= SEGMENT_SACK;
		}
		p += size;
		len -= size;
	}
	return true;
}

/* The checksum of a header without options, which nearly all are: its sum with end-around carry. */
static inline bool ipv4_checksum_good(const struct ipv4_hdr *ip, uint32_t ihl)
{
	uint64_t a, b, sum;
	uint32_t c, half;

	if (unlikely(ihl != sizeof(*ip)))
		return checksum_of(ip, ihl) == 0;
	memcpy(&a, ip, 8);
	memcpy(&b, (const uint8_t *)ip + 8, 8);
	memcpy(&c, (const uint8_t *)ip + 16, 4);
	sum = a + b;
	sum += sum < a;
	sum += c;
	sum += sum < c;
	sum += sum << 32 | sum >> 32; /* the upper half is the sum of both, with its carry */
	half = (uint32_t)(sum >> 32);
	half += half << 16 | half >> 16;
	return half >> 16 == 0xffffu;
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
 * it does not recognize it leaves to that path, which decides. (Ports of 0 are found by no look-up.)
 */
static HOT_INLINE bool parse_usual(
	struct datapath *dp, const struct port *port, struct frame *frame, struct rx_item *item)
{
	const uint8_t *p = frame->data;
	uint32_t type_version, frag_protocol, option, len;
	uint64_t dst;
	uint16_t total;

	if (unlikely(frame->len < USUAL_PAYLOAD || !(frame->flags & FRAME_CSUM_GOOD)))
		return false;
	memcpy(&dst, p, 8);
	memcpy(&type_version, p + 12, 4);
	memcpy(&total, p + 16, 2);
	memcpy(&frag_protocol, p + 20, 4);
	memcpy(&option, p + 54, 4);
	len = from_be16(total) - (USUAL_PAYLOAD - (uint32_t)sizeof(struct eth_hdr));
	if (unlikely(dst << 16 != port->mac_match || (type_version & 0xffffffu) != 0x450008u ||
		     (frag_protocol & 0xff00ff3fu) != 0x06000000u || (p[46] & 0xf0u) != 0x80u ||
		     option != TS_OPTION_ALIGNED || len > frame->len - USUAL_PAYLOAD ||
		     !ipv4_checksum_good((const struct ipv4_hdr *)(p + 14), sizeof(struct ipv4_hdr))))
		return false;
	item->frame = frame;
	item->len = len;
	item->usual = true;
	item->hash = flow_hash(&dp->flows, pre_key(p, p + USUAL_TCP));
	return true;
}

HOT_INLINE struct segment pre_segment(const struct rx_item *item)
{
	const uint8_t *p = item->frame->data + USUAL_TCP;
	uint32_t seq, ack, tsval, tsecr;
	uint16_t wnd;

	memcpy(&seq, p + 4, 4);
	memcpy(&ack, p + 8, 4);
	memcpy(&wnd, p + 14, 2);
	memcpy(&tsval, p + 24, 4);
	memcpy(&tsecr, p + 28, 4);
	return (struct segment){.seq = from_be32(seq),
		.ack = from_be32(ack),
		.len = item->len,
		.wnd = from_be16(wnd),
		.flags = p[13],
		.has_ts = 1,
		.tsval = from_be32(tsval),
		.tsecr = from_be32(tsecr)};
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
	item->len = item->seg.len = tcp_len - off;
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
		if (!options_parse((const uint8_t *)(tcp + 1), off - (uint32_t)sizeof(*tcp), &item->seg,
			    &item->sack))
			goto drop;
	}
	item->frame = frame;
	item->usual = false;
	item->tcp = (const uint8_t *)tcp;
	item->hash = flow_hash(&dp->flows, pre_key(frame->data, item->tcp));
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
