/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ICMP where the engine owns the address: answers echo requests up to the MTU (RFC 1122 3.2.2.6), takes
 * errors as the end of a connection attempt that they quote, and "fragmentation needed" to pmtu.c. To open
 * connections other errors are soft (RFC 5461), and forged ones are cheap (RFC 5927). Control plane's thread.
 */
#include <errno.h>
#include <string.h>

#include "control/state.h"
#include "core/checksum.h"

#define ICMP_ECHO_REPLY		  0u
#define ICMP_UNREACHABLE	  3u
#define ICMP_ECHO_REQUEST	  8u
#define ICMP_TIME_EXCEEDED	  11u
#define ICMP_PARAMETER		  12u
#define ICMP_FRAGMENTATION_NEEDED 4u /* code of "unreachable" (RFC 1191 4) */

static void icmp_echo(struct control *ctl, const struct exc_frame *exc, const struct ipv4_hdr *ip,
	const uint8_t *icmp, uint32_t icmp_len)
{
	uint8_t frame[sizeof(struct eth_hdr) + 65535];
	struct eth_hdr *eth = (void *)frame;
	struct ipv4_hdr *reply_ip = (void *)(frame + sizeof(*eth));
	struct icmp_hdr *reply = (void *)(frame + sizeof(*eth) + sizeof(*reply_ip));
	uint32_t total = (uint32_t)sizeof(*reply_ip) + icmp_len;

	if (total > datapath_port(ctl->dp, exc->port)->mtu || total > sizeof(frame) - sizeof(*eth) ||
		!rate_take(&ctl->icmp_limit, ctl->now_us)) {
		COUNT(ctl, drop_icmp);
		return;
	}
	memset(frame, 0, sizeof(*eth) + sizeof(*reply_ip));
	memcpy(eth->dst, ((const struct eth_hdr *)exc->bytes)->src, 6);
	memcpy(eth->src, datapath_port(ctl->dp, exc->port)->mac, 6);
	eth->type = to_be16(ETHTYPE_IPV4_);
	reply_ip->version_ihl = 0x45;
	reply_ip->tos = ip->tos;
	reply_ip->total_len = to_be16((uint16_t)total);
	reply_ip->frag = to_be16(IPV4_DF_);
	reply_ip->ttl = 64;
	reply_ip->protocol = IPPROTO_ICMP_;
	reply_ip->src = ip->dst;
	reply_ip->dst = ip->src;
	reply_ip->checksum = checksum_of(reply_ip, sizeof(*reply_ip));
	memcpy(reply, icmp, icmp_len);
	reply->type = ICMP_ECHO_REPLY;
	reply->checksum = 0;
	reply->checksum = checksum_of(reply, icmp_len);
	COUNT(ctl, icmp_echo_in);
	control_frame(ctl, CTL_SEND, exc->port, 0, frame, (uint32_t)sizeof(*eth) + total);
}

/* RFC 1122 4.2.3.9 and 3.2.2: what an attempt to connect fails with, 0: nothing. */
static int error_of(uint8_t type, uint8_t code)
{
	if (type == ICMP_TIME_EXCEEDED)
		return EHOSTUNREACH;
	if (type == ICMP_PARAMETER)
		return EPROTO;
	switch (code) {
	case 0:
	case 6:
	case 11:
		return ENETUNREACH;
	case 2:
	case 3:
		return ECONNREFUSED;
	case ICMP_FRAGMENTATION_NEEDED:
		return 0;
	default:
		return code <= 15 ? EHOSTUNREACH : 0;
	}
}

/*
 * RFC 5461 and RFC 5927 4.1: on a connection that is open any error is soft, and only one that quotes bytes
 * in flight is believed at all. It says why, if the connection is given up before there is progress again.
 */
static void conn_error(struct control *ctl, uint32_t index, const struct ipv4_hdr *quoted, uint32_t seq,
	int error, uint32_t mtu)
{
	const struct tcp_state *tcp = &datapath_conn(ctl->dp, index)->tcp;

	if (seq_lt(seq, tcp->snd_una) || seq_geq(seq, tcp->snd_max)) {
		COUNT(ctl, drop_icmp);
		return;
	}
	if (error)
		ctl->conns[index].soft_error = (uint8_t)error;
	else
		pmtu_told(ctl, index, mtu, from_be16(quoted->total_len));
}

/* An error that quotes a packet of ours: unreachable, time exceeded, parameter problem. */
static void icmp_error(
	struct control *ctl, const struct ipv4_hdr *outer, const uint8_t *icmp, uint32_t icmp_len)
{
	const struct icmp_hdr *hdr = (const void *)icmp;
	const struct ipv4_hdr *ip = (const void *)(icmp + sizeof(*hdr));
	bool too_large = hdr->type == ICMP_UNREACHABLE && hdr->code == ICMP_FRAGMENTATION_NEEDED;
	int error = error_of(hdr->type, hdr->code);
	const struct tcp_hdr *tcp;
	struct flow_key key;
	uint32_t ip_len, ref;

	if (icmp_len < sizeof(*hdr) + sizeof(*ip) + 8) { /* RFC 792: header and 8 bytes are quoted */
		COUNT(ctl, drop_icmp);
		return;
	}
	ip_len = (ip->version_ihl & 15u) * 4u;
	if (ip->version_ihl >> 4 != 4 || ip_len < sizeof(*ip) || icmp_len < sizeof(*hdr) + ip_len + 8 ||
		ip->protocol != IPPROTO_TCP_ || ip->src != outer->dst || (!error && !too_large)) {
		COUNT(ctl, drop_icmp);
		return;
	}
	tcp = (const void *)((const uint8_t *)ip + ip_len);
	memset(&key, 0, sizeof(key));
	key.local_addr = ip->src;
	key.remote_addr = ip->dst;
	key.local_port = tcp->src_port;
	key.remote_port = tcp->dst_port;
	ref = flows_find(ctl, &key);
	if (ref != INDEX_NONE && FLOW_REF_KIND(ref) == FLOW_CONN)
		conn_error(ctl, FLOW_REF_INDEX(ref), ip, from_be32(tcp->seq), error,
			from_be32(hdr->rest) & 0xffffu);
	else if (error)
		handshake_error(ctl, &key, from_be32(tcp->seq), error);
}

/* An IPv4 ICMP frame to one of our addresses. */
void icmp_frame(struct control *ctl, const struct exc_frame *exc)
{
	const struct ipv4_hdr *ip = (const void *)(exc->bytes + sizeof(struct eth_hdr));
	uint32_t ip_len = (ip->version_ihl & 15u) * 4u, total = from_be16(ip->total_len), icmp_len;
	const uint8_t *icmp;

	if (ip_len < sizeof(*ip) || total < ip_len + sizeof(struct icmp_hdr) ||
		exc->len < sizeof(struct eth_hdr) + total) {
		COUNT(ctl, drop_icmp);
		return;
	}
	icmp = (const uint8_t *)ip + ip_len;
	icmp_len = total - ip_len;
	if (checksum_of(icmp, icmp_len) != 0) {
		COUNT(ctl, drop_icmp);
		return;
	}
	switch (icmp[0]) {
	case ICMP_ECHO_REQUEST:
		icmp_echo(ctl, exc, ip, icmp, icmp_len);
		break;
	case ICMP_UNREACHABLE:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETER:
		icmp_error(ctl, ip, icmp, icmp_len);
		break;
	default:
		COUNT(ctl, drop_icmp);
		break;
	}
}
