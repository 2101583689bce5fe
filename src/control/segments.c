/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TCP segments that the control plane reads and makes: taking a frame apart with every length checked, SYN
 * options in both directions (RFC 9293 3.2, RFC 7323, RFC 2018), initial sequence numbers (RFC 6528), and the
 * RST for a segment that belongs to nothing (RFC 9293 3.10.7.1). Frames leave by CTL_SEND with checksums made
 * here. Knows no state of connections.
 */
#include <errno.h>
#include <string.h>

#include "control/state.h"
#include "core/checksum.h"
#include "core/siphash.h"

#define FRAME_HEADERS (sizeof(struct eth_hdr) + sizeof(struct ipv4_hdr) + sizeof(struct tcp_hdr))

static uint16_t read_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t read_be32(const uint8_t *p)
{
	return (uint32_t)read_be16(p) << 16 | read_be16(p + 2);
}

/*
 * RFC 9293 3.2: every option but EOL and NOP has a length. One that is below 2 or reaches beyond the header
 * ends the list: what stands before it counts. A known option with a wrong length is passed over.
 */
void options_parse(const uint8_t *p, uint32_t len, struct tcp_options *out)
{
	memset(out, 0, sizeof(*out));
	while (len) {
		uint8_t kind = p[0], size;

		if (kind == TCPOPT_EOL_)
			return;
		if (kind == TCPOPT_NOP_) {
			p++;
			len--;
			continue;
		}
		if (len < 2 || p[1] < 2 || p[1] > len)
			return;
		size = p[1];
		if (kind == TCPOPT_MSS_ && size == 4) {
			out->mss = read_be16(p + 2);
		} else if (kind == TCPOPT_WSCALE_ && size == 3) {
			out->has_wscale = true;
			out->wscale = p[2] > 14 ? 14 : p[2]; /* RFC 7323 2.3: use 14 instead */
		} else if (kind == TCPOPT_SACK_PERM_ && size == 2) {
			out->sack_permitted = true;
		} else if (kind == TCPOPT_TS_ && size == 10) {
			out->has_timestamps = true;
			out->tsval = read_be32(p + 2);
			out->tsecr = read_be32(p + 6);
		}
		p += size;
		len -= size;
	}
}

/* False when a length does not fit; the data path has checked it all before, an engine of another make may
 * not. */
bool segment_parse(const struct exc_frame *exc, struct segment *seg)
{
	const struct eth_hdr *eth = (const void *)exc->bytes;
	const struct ipv4_hdr *ip;
	const struct tcp_hdr *tcp;
	uint32_t ip_len, total, tcp_len;

	if (exc->len < FRAME_HEADERS)
		return false;
	ip = (const void *)(exc->bytes + sizeof(*eth));
	ip_len = (ip->version_ihl & 15u) * 4u;
	total = from_be16(ip->total_len);
	if (ip->version_ihl >> 4 != 4 || ip_len < sizeof(*ip) || total < ip_len + sizeof(*tcp) ||
		exc->len < sizeof(*eth) + total)
		return false;
	tcp = (const void *)((const uint8_t *)ip + ip_len);
	tcp_len = (tcp->data_off >> 4) * 4u;
	if (tcp_len < sizeof(*tcp) || tcp_len > total - ip_len)
		return false;
	memset(seg, 0, sizeof(*seg));
	seg->frame = exc->bytes;
	seg->frame_len = exc->len;
	seg->frame_flags = exc->flags;
	seg->port = exc->port;
	memcpy(seg->src_mac, eth->src, 6);
	seg->key.local_addr = ip->dst;
	seg->key.remote_addr = ip->src;
	seg->key.local_port = tcp->dst_port;
	seg->key.remote_port = tcp->src_port;
	seg->seq = from_be32(tcp->seq);
	seg->ack = from_be32(tcp->ack);
	seg->wnd = from_be16(tcp->wnd);
	seg->ctl = tcp->flags;
	seg->payload_len = total - ip_len - tcp_len;
	options_parse((const uint8_t *)(tcp + 1), tcp_len - (uint32_t)sizeof(*tcp), &seg->options);
	return true;
}

static uint8_t *put_be16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

static uint8_t *put_be32(uint8_t *p, uint32_t v)
{
	return put_be16(put_be16(p, (uint16_t)(v >> 16)), (uint16_t)v);
}

/* Aligned to four bytes as in RFC 7323 appendix A. */
static uint8_t *options_put(uint8_t *p, const struct segment_out *out)
{
	if (out->ctl & TCP_SYN_) {
		*p++ = TCPOPT_MSS_;
		*p++ = 4;
		p = put_be16(p, out->mss);
	}
	if (out->timestamps) {
		bool sack = out->sack_permitted && out->ctl & TCP_SYN_;

		*p++ = sack ? TCPOPT_SACK_PERM_ : TCPOPT_NOP_;
		*p++ = sack ? 2 : TCPOPT_NOP_;
		*p++ = TCPOPT_TS_;
		*p++ = 10;
		p = put_be32(p, out->tsval);
		p = put_be32(p, out->tsecr);
	} else if (out->sack_permitted && out->ctl & TCP_SYN_) {
		*p++ = TCPOPT_NOP_;
		*p++ = TCPOPT_NOP_;
		*p++ = TCPOPT_SACK_PERM_;
		*p++ = 2;
	}
	if (out->has_wscale && out->ctl & TCP_SYN_) {
		*p++ = TCPOPT_NOP_;
		*p++ = TCPOPT_WSCALE_;
		*p++ = 3;
		*p++ = out->wscale;
	}
	return p;
}

int segment_send(struct control *ctl, const struct segment_out *out)
{
	uint8_t frame[FRAME_HEADERS + 40] = {0};
	struct eth_hdr *eth = (void *)frame;
	struct ipv4_hdr *ip = (void *)(frame + sizeof(*eth));
	struct tcp_hdr *tcp = (void *)(frame + sizeof(*eth) + sizeof(*ip));
	uint8_t *end = options_put((uint8_t *)(tcp + 1), out);
	uint32_t tcp_len = (uint32_t)(end - (uint8_t *)tcp);

	memcpy(eth->dst, out->dst_mac, 6);
	memcpy(eth->src, datapath_port(ctl->dp, out->port)->mac, 6);
	eth->type = to_be16(ETHTYPE_IPV4_);
	ip->version_ihl = 0x45;
	ip->total_len = to_be16((uint16_t)(sizeof(*ip) + tcp_len));
	ip->frag = to_be16(IPV4_DF_);
	ip->tos = out->tos;
	ip->ttl = out->ttl ? out->ttl : CONN_TTL;
	ip->protocol = IPPROTO_TCP_;
	ip->src = out->key.local_addr;
	ip->dst = out->key.remote_addr;
	ip->checksum = checksum_of(ip, sizeof(*ip));
	tcp->src_port = out->key.local_port;
	tcp->dst_port = out->key.remote_port;
	tcp->seq = to_be32(out->seq);
	tcp->ack = to_be32(out->ctl & TCP_ACK_ ? out->ack : 0);
	tcp->data_off = (uint8_t)(tcp_len / 4u << 4);
	tcp->flags = out->ctl;
	tcp->wnd = to_be16(out->wnd);
	tcp->checksum = (uint16_t)~checksum_fold(
		checksum_add(tcp, tcp_len, checksum_pseudo(ip->src, ip->dst, tcp_len)));
	return control_frame(ctl, CTL_SEND, out->port, 0, frame, (uint32_t)(end - frame));
}

/*
 * RFC 9293 3.10.7.1, state CLOSED: a RST is dropped; a segment with ACK is answered <SEQ=SEG.ACK><CTL=RST>,
 * one without <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
 */
void segment_reset_reply(struct control *ctl, const struct segment *seg)
{
	struct segment_out out = {.port = seg->port, .dst_mac = seg->src_mac, .key = seg->key};

	if (seg->ctl & TCP_RST_ || !rate_take(&ctl->reset_limit, ctl->now_us))
		return;
	if (seg->ctl & TCP_ACK_) {
		out.seq = seg->ack;
		out.ctl = TCP_RST_;
	} else {
		out.ack = seg->seq + segment_len(seg);
		out.ctl = TCP_RST_ | TCP_ACK_;
	}
	segment_send(ctl, &out);
}

/* RFC 6528 3: ISN = M + F(localip, localport, remoteip, remoteport, secretkey), M ticks every 4 microseconds.
 */
uint32_t segment_iss(struct control *ctl, const struct flow_key *key)
{
	uint64_t k[2] = {ctl->secret[1], ctl->secret[0]}; /* another function than the hash table's */

	return (uint32_t)(ctl->now_us / 4u) + (uint32_t)siphash(k, key, sizeof(*key));
}
