/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ICMP where the engine owns the address: answers echo requests up to the MTU (RFC 1122 3.2.2.6), and takes
 * "destination unreachable" as the end of a connection attempt that it quotes. Established connections are
 * left alone: their errors are soft (RFC 5461), and forged ones are cheap (RFC 5927). Control plane's thread.
 */
#include <errno.h>
#include <string.h>

#include "control/state.h"
#include "core/checksum.h"

#define ICMP_ECHO_REPLY	  0u
#define ICMP_UNREACHABLE  3u
#define ICMP_ECHO_REQUEST 8u

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

/* RFC 1122 4.2.3.9; an attempt fails at once for all codes but "fragmentation needed", which a SYN never is.
 */
static int unreachable_error(uint8_t code)
{
	switch (code) {
	case 0:
	case 6:
	case 11:
		return ENETUNREACH;
	case 2:
	case 3:
		return ECONNREFUSED;
	case 4:
		return 0;
	default:
		return code <= 15 ? EHOSTUNREACH : 0;
	}
}

static void icmp_unreachable(
	struct control *ctl, const struct ipv4_hdr *outer, const uint8_t *icmp, uint32_t icmp_len)
{
	const struct ipv4_hdr *ip = (const void *)(icmp + sizeof(struct icmp_hdr));
	const struct tcp_hdr *tcp;
	struct flow_key key;
	uint32_t ip_len;
	int error = unreachable_error(((const struct icmp_hdr *)icmp)->code);

	if (icmp_len <
		sizeof(struct icmp_hdr) + sizeof(*ip) + 8) { /* RFC 792: header and 8 bytes are quoted */
		COUNT(ctl, drop_icmp);
		return;
	}
	ip_len = (ip->version_ihl & 15u) * 4u;
	if (ip->version_ihl >> 4 != 4 || ip_len < sizeof(*ip) ||
		icmp_len < sizeof(struct icmp_hdr) + ip_len + 8 || ip->protocol != IPPROTO_TCP_ ||
		ip->src != outer->dst || !error) {
		COUNT(ctl, drop_icmp);
		return;
	}
	tcp = (const void *)((const uint8_t *)ip + ip_len);
	memset(&key, 0, sizeof(key));
	key.local_addr = ip->src;
	key.remote_addr = ip->dst;
	key.local_port = tcp->src_port;
	key.remote_port = tcp->dst_port;
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
		icmp_unreachable(ctl, ip, icmp, icmp_len);
		break;
	default:
		COUNT(ctl, drop_icmp);
		break;
	}
}
