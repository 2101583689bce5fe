/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The AF_XDP device's own state, shared by afxdp.c (frames) and afxdp_open.c (socket and program), and the
 * parts of the kernel's interface that are newer than the headers of the oldest system we build on.
 */
#ifndef DEVICE_AFXDP_H
#define DEVICE_AFXDP_H

#include <linux/if_xdp.h>

#include "device/internal.h"

#define AFXDP_CHUNK	   4096u /* of the umem; a longer packet takes several */
#define AFXDP_CHUNK_SMALL  2048u /* where no packet is longer: twice as many in the same memory */
#define AFXDP_HEADROOM	   256u	 /* the kernel leaves as much in front of what it receives */
#define AFXDP_TX_CHUNKS	   2048u /* at most; also the entries of the transmit and completion ring */
#define AFXDP_METADATA	   16u	 /* in front of each transmitted piece, where the kernel takes it */
#define AFXDP_PIECES	   17u	 /* that a transmitted packet may consist of: the kernel's MAX_SKB_FRAGS */
#define AFXDP_LINEAR_COUNT 256u
#define AFXDP_LINEAR_BYTES (65535u + 128u)

/* Linux 6.6 (several buffers a packet) and 6.8 (transmit metadata). */
#define AFXDP_USE_SG		   (1u << 4)
#define AFXDP_PKT_CONTD		   (1u << 0)
#define AFXDP_TX_METADATA	   (1u << 1)
#define AFXDP_UMEM_TX_METADATA_LEN (1u << 2)
#define AFXDP_TXMD_FLAGS_CHECKSUM  (1ull << 1)

struct afxdp_umem_reg {
	uint64_t addr, len;
	uint32_t chunk_size, headroom, flags, tx_metadata_len;
};

struct afxdp_tx_metadata {
	uint64_t flags;
	uint16_t csum_start, csum_offset;
	uint32_t reserved;
};
_Static_assert(sizeof(struct afxdp_tx_metadata) == AFXDP_METADATA, "kernel layout");

/* One of the four rings that are shared with the kernel; ours is the producer's or the consumer's side. */
struct afxdp_ring {
	uint32_t *producer, *consumer, *flags;
	void *entries; /* struct xdp_desc or uint64_t */
	uint32_t size; /* entries, a power of two */
	uint32_t own;  /* our index, published by a release store */
	uint32_t seen; /* the other side's index as last read */
	void *map;
	size_t map_bytes;
};

/* Chunks nobody uses, by address in the umem; last in, first out. */
struct afxdp_chunks {
	uint64_t *free;
	uint32_t count;
};

/* The packet whose pieces are coming in; they may take several bursts. */
struct afxdp_assembly {
	bool open;
	bool bad;	       /* what is left of it is thrown away */
	bool copied;	       /* it lies in buffer `linear`, not in slots */
	uint32_t slot, pieces; /* where it begins, and how many slots it takes */
	uint32_t linear;
	uint32_t len;
	uint8_t *data;
};

struct afxdp {
	struct device dev;
	int fd;
	bool metadata; /* each transmitted piece has AFXDP_METADATA bytes in front */
	bool multi;    /* packets of several pieces are allowed */
	bool trust_checksum;
	bool tx_linear;	 /* a frame of our MTU does not fit a chunk */
	bool tx_pending; /* the kernel has not taken all that was put on the transmit ring */
	bool tx_refused; /* and would not, the last time, for want of memory: ask again before sleeping */
	bool gone;	 /* the interface is no more */
	uint8_t *umem;
	size_t umem_bytes;
	uint32_t chunk; /* bytes */
	uint32_t piece; /* bytes of a transmitted chunk that a packet can have */
	struct afxdp_ring rx, fill, tx, done;
	/*
	 * Receive slots, each rx_step bytes behind the one before, go round in this order: rx_next is the
	 * next for the fill ring, once it is home. Where the kernel lets chunks overlap, a slot begins where
	 * the headroom of its chunk ends and the data of the slot before end: pieces of a packet, which come
	 * in slots that follow each other, are one piece in memory, and nothing has to put them together.
	 */
	bool overlap;
	uint32_t rx_slots, rx_step, rx_next;
	uint8_t *rx_home;
	uint32_t rx_home_count;
	struct afxdp_chunks tx_free;
	struct buffers linear; /* packets longer than a chunk, in one piece; count 0 where there are none */
	struct afxdp_assembly assembly;
	struct device_stats stats;
	struct bpf_object *object;
	int link_fd; /* while it is open the program is attached, so it goes with the process */
};

extern const struct device_ops afxdp_ops;

#endif
