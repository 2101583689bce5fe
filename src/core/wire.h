/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Header layouts as they are on the wire. Fields are in network byte order and have the types be16 and be32;
 * headers may lie at any address, so the structs are packed. Reading one past the frame is the caller's bug:
 * check lengths first.
 */
#ifndef CORE_WIRE_H
#define CORE_WIRE_H

#include <stdint.h>
#include <string.h>

typedef uint16_t be16;
typedef uint32_t be32;

static inline uint16_t from_be16(be16 v)
{
	return __builtin_bswap16(v);
}
static inline uint32_t from_be32(be32 v)
{
	return __builtin_bswap32(v);
}
static inline be16 to_be16(uint16_t v)
{
	return __builtin_bswap16(v);
}
static inline be32 to_be32(uint32_t v)
{
	return __builtin_bswap32(v);
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian machines only, for now");

#define ETH_ALEN_     6u
#define ETHTYPE_IPV4_ 0x0800u
#define ETHTYPE_ARP_  0x0806u
#define ETHTYPE_IPV6_ 0x86ddu
#define IPPROTO_ICMP_ 1u
#define IPPROTO_TCP_  6u

struct eth_hdr {
	uint8_t dst[6];
	uint8_t src[6];
	be16 type;
} __attribute__((packed));

struct ipv4_hdr {
	uint8_t version_ihl;
	uint8_t tos; /* DSCP and ECN */
	be16 total_len;
	be16 id;
	be16 frag; /* flags and fragment offset */
	uint8_t ttl;
	uint8_t protocol;
	be16 checksum;
	be32 src;
	be32 dst;
} __attribute__((packed));

#define IPV4_DF_	0x4000u
#define IPV4_MF_	0x2000u
#define IPV4_FRAG_MASK_ 0x3fffu /* MF and offset: any of them set means a fragment */

struct tcp_hdr {
	be16 src_port;
	be16 dst_port;
	be32 seq;
	be32 ack;
	uint8_t data_off; /* header length in 32-bit words, in the high four bits */
	uint8_t flags;
	be16 wnd;
	be16 checksum;
	be16 urg;
} __attribute__((packed));

/* Control bits (RFC 9293 3.1). */
#define TCP_FIN_ 0x01u
#define TCP_SYN_ 0x02u
#define TCP_RST_ 0x04u
#define TCP_PSH_ 0x08u
#define TCP_ACK_ 0x10u
#define TCP_URG_ 0x20u
#define TCP_ECE_ 0x40u
#define TCP_CWR_ 0x80u

/* Option kinds (IANA TCP parameters). */
#define TCPOPT_EOL_	  0u
#define TCPOPT_NOP_	  1u
#define TCPOPT_MSS_	  2u
#define TCPOPT_WSCALE_	  3u
#define TCPOPT_SACK_PERM_ 4u
#define TCPOPT_SACK_	  5u
#define TCPOPT_TS_	  8u

struct arp_hdr {
	be16 hw_type;
	be16 proto_type;
	uint8_t hw_len;
	uint8_t proto_len;
	be16 op;
	uint8_t sha[6];
	be32 spa;
	uint8_t tha[6];
	be32 tpa;
} __attribute__((packed));

struct icmp_hdr {
	uint8_t type;
	uint8_t code;
	be16 checksum;
	be32 rest;
} __attribute__((packed));

_Static_assert(sizeof(struct eth_hdr) == 14, "wire layout");
_Static_assert(sizeof(struct ipv4_hdr) == 20, "wire layout");
_Static_assert(sizeof(struct tcp_hdr) == 20, "wire layout");
_Static_assert(sizeof(struct arp_hdr) == 28, "wire layout");
_Static_assert(sizeof(struct icmp_hdr) == 8, "wire layout");

#endif
