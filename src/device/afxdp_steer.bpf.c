/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The XDP program of the AF_XDP device: decides which frames are ours. It runs in the kernel for each frame
 * that arrives; what it does not redirect goes on to the kernel's own stack, also when no socket is bound to
 * the queue. afxdp_open.c loads it, fills the maps and attaches it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP  0x0806
#define PROTO_ICMP     1
#define PROTO_TCP      6

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024); /* queues, as many as can be configured */
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Our IPv4 addresses in wire order. Key 0 stands for "everything is ours". */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u8);
} addresses SEC(".maps");

struct ethernet {
	__u8 dst[6], src[6];
	__u16 type;
} __attribute__((packed));

struct ipv4 {
	__u8 version_ihl, tos;
	__u16 total_len, id, frag;
	__u8 ttl, protocol;
	__u16 checksum;
	__u32 src, dst;
} __attribute__((packed));

struct arp {
	__u16 hw_type, proto_type;
	__u8 hw_len, proto_len;
	__u16 op;
	__u8 sha[6];
	__u32 spa;
	__u8 tha[6];
	__u32 tpa;
} __attribute__((packed));

static __always_inline bool is_ours(__u32 address)
{
	return bpf_map_lookup_elem(&addresses, &address) != NULL;
}

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	__u32 address;

	if (is_ours(0))
		return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (eth->type == __builtin_bswap16(ETHERTYPE_IPV4)) {
		struct ipv4 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || (ip->protocol != PROTO_TCP && ip->protocol != PROTO_ICMP))
			return XDP_PASS;
		address = ip->dst;
	} else if (eth->type == __builtin_bswap16(ETHERTYPE_ARP)) {
		struct arp *arp = (void *)(eth + 1);

		if ((void *)(arp + 1) > end)
			return XDP_PASS;
		address = arp->tpa;
	} else {
		return XDP_PASS;
	}
	/* 0 is the key above, not an address anybody can send to. */
	if (address && is_ours(address))
		return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	return XDP_PASS;
}

char steer_license[] SEC("license") = "Dual BSD/GPL";
