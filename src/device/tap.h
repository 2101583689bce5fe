/* SPDX-License-Identifier: BSD-3-Clause */
/* The tap device's own state, shared by tap.c (frames) and tap_open.c (making the interface). */
#ifndef DEVICE_TAP_H
#define DEVICE_TAP_H

#include "device/internal.h"

/* Room in front of each frame; the virtio-net header takes its end and so shares a cache line with the start
   of the Ethernet header. */
#define TAP_HEADROOM	 144u
#define TAP_HEADER_BYTES 10u
/* Ethernet header, a VLAN tag, and the longest IP packet. */
#define TAP_FRAME_BYTES (14u + 4u + 65535u)
#define TAP_BUFFERS	256u /* in each direction; only those in use take memory */
#define TAP_BURST_MAX	256u
/* Payload of a super-frame with the longest IP (20) and TCP (60) headers we write: 65,535 - 80. */
#define TAP_TSO_BYTES 65455u

/* The header of VIRTIO 1.x 5.1.6.1 (virtio_net_hdr), in host order as TUNSETVNETLE leaves it on our machines.
 */
struct virtio_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};
_Static_assert(sizeof(struct virtio_header) == TAP_HEADER_BYTES, "kernel layout");

#define VIRTIO_NEEDS_CSUM 1u
#define VIRTIO_DATA_VALID 2u
#define VIRTIO_GSO_TCPV4  1u
#define VIRTIO_GSO_ECN	  0x80u

struct tap {
	struct device dev;
	int fd;
	unsigned burst_limit; /* frames to ask for before giving back what there is; follows the load */
	struct buffers rx, tx;
	struct device_stats stats;
};

extern const struct device_ops tap_ops;

#endif
