/* SPDX-License-Identifier: BSD-3-Clause */
/* The tap device's own state, shared by tap.c (frames) and tap_open.c (making the interface). */
#ifndef DEVICE_TAP_H
#define DEVICE_TAP_H

#include <sys/uio.h>

#include "device/internal.h"

/* Room in front of each frame; the virtio-net header takes its end and so shares a cache line with the start
   of the Ethernet header. */
#define TAP_HEADROOM	 144u
#define TAP_HEADER_BYTES 10u
/* Ethernet header, a VLAN tag, and the longest IP packet. */
#define TAP_FRAME_BYTES (14u + 4u + 65535u)
#define TAP_BUFFERS	256u /* in each direction; only those in use take memory */
#define TAP_BURST_MAX	256u
#define TAP_URING_BURST 64u
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
	struct tap_uring *uring; /* NULL: one system call a frame */
	bool uring_wanted;	 /* not tried yet; the thread that polls first starts it */
};

/*
 * tap_uring.c. start() sets tap->uring, or fails and leaves no trace; the others only while it is set.
 * A ring that broke must be stopped before anything else is done with it. Buffers whose reads were in a ring
 * that is stopped stay lost to the pool.
 */
int tap_uring_start(struct tap *tap);
void tap_uring_stop(struct tap *tap);
bool tap_uring_broken(const struct tap *tap);
/* Up to n received frames: their buffers, and their lengths with the virtio-net header. */
unsigned tap_uring_rx(struct tap *tap, uint32_t *buffers, uint32_t *lens, unsigned n);
bool tap_uring_rx_waiting(struct tap *tap);
/* Takes a frame over, to be sent by flush at the latest. */
void tap_uring_tx(struct tap *tap, uint32_t buffer, const struct iovec *iov, unsigned pieces, uint32_t bytes);
void tap_uring_tx_flush(struct tap *tap);

extern const struct device_ops tap_ops;

#endif
