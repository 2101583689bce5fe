/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packet I/O behind one ops table. A device is used by one thread at a time (the data path that polls it);
 * nothing here blocks, and a full queue is an answer ("fewer than asked"), never a wait.
 *
 * Receive: rx_burst() hands out frames that lie in the device's buffers; each is given back with
 * rx_release(), in any order. Transmit: tx_alloc() hands out empty frames, the caller lays headers (and
 * payload) into them, tx_burst() takes them back. A frame that tx_burst() did not take stays the caller's:
 * offer it again, or give it back with tx_free().
 */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

struct device;

/*
 * Frame flags.
 * CSUM_GOOD, rx: the TCP checksum was verified, or need not be (virtio DATA_VALID and NEEDS_CSUM both mean
 * that): do not verify.
 * CSUM_OFFLOAD, tx: the device is to complete the TCP checksum at csum_start + csum_offset; the field holds
 * the pseudo-header's sum, not complemented. Only to a device with DEVICE_TX_CSUM.
 * TSO, tx: cut into segments of gso_size payload bytes behind hdr_len bytes of headers; implies CSUM_OFFLOAD,
 * and only to a device with DEVICE_TSO. rx: was coalesced from such segments.
 */
#define FRAME_CSUM_GOOD	   0x01u
#define FRAME_CSUM_OFFLOAD 0x02u
#define FRAME_TSO	   0x04u

#define FRAME_FRAGS 2u

struct frame {
	uint8_t *data;	/* first byte of the Ethernet header */
	uint32_t len;	/* bytes at data, without the fragments below */
	uint32_t room;	/* tx: bytes there are at data */
	uint16_t flags; /* FRAME_* */
	uint16_t gso_size;
	uint16_t hdr_len;     /* with FRAME_TSO: Ethernet + IP + TCP header bytes */
	uint16_t csum_start;  /* with FRAME_CSUM_OFFLOAD: offset of the TCP header */
	uint16_t csum_offset; /* the same: of the checksum in the TCP header (16) */
	uint16_t frag_count;
	/* tx, only to a device with DEVICE_TX_GATHER: payload that follows `data`, read before tx_flush()
	   returns. The bytes may change while they are read (they are an application's). */
	struct {
		const uint8_t *data;
		uint32_t len;
	} frag[FRAME_FRAGS];
	uint64_t cookie; /* the device's own: which buffer */
};

/* Capabilities. */
#define DEVICE_RX_CSUM	    0x01u /* sets FRAME_CSUM_GOOD where it applies */
#define DEVICE_TX_CSUM	    0x02u
#define DEVICE_TSO	    0x04u /* IPv4 TCP super-frames up to max_tso_bytes of payload */
#define DEVICE_RX_COALESCED 0x08u /* may hand out received super-frames */
#define DEVICE_TX_GATHER    0x10u /* takes frames with fragments */

struct device_stats {
	uint64_t rx_frames, rx_bytes, tx_frames, tx_bytes;
	uint64_t rx_dropped; /* by the device or below it, as far as it can tell */
	uint64_t tx_dropped; /* refused by the kernel or the hardware after tx_burst() took them */
	uint64_t rx_errors;  /* malformed at the device level: bad descriptor, truncated */
};

struct device_ops {
	const char *name; /* "tap", "afxdp", "dpdk", "link", "pcap", "fault" */
	/* Up to n received frames into frames[]; returns how many. */
	unsigned (*rx_burst)(struct device *dev, struct frame *frames, unsigned n);
	void (*rx_release)(struct device *dev, struct frame *frames, unsigned n);
	/* Up to n empty frames; each has at least 128 bytes plus an MTU's worth of room, or min_room. */
	unsigned (*tx_alloc)(struct device *dev, struct frame *frames, unsigned n);
	/* Takes the first k of n frames, in order, and returns k. */
	unsigned (*tx_burst)(struct device *dev, struct frame *frames, unsigned n);
	void (*tx_free)(struct device *dev, struct frame *frames, unsigned n);
	/* Sends what tx_burst() may have held back; after it fragments are no longer referenced. Once a poll.
	 */
	void (*tx_flush)(struct device *dev);
	/*
	 * About to sleep on wait_fd: returns true when frames are there already (do not sleep). The fd
	 * becomes readable when frames come; wait_end() is called after waking, before the next rx_burst().
	 */
	bool (*wait_begin)(struct device *dev);
	void (*wait_end)(struct device *dev);
	void (*stats)(struct device *dev, struct device_stats *out);
	void (*close)(struct device *dev); /* frees everything, the struct too */
};

struct device {
	const struct device_ops *ops;
	uint32_t caps;		/* DEVICE_* */
	uint32_t mtu;		/* IP bytes in a frame that is not a super-frame */
	uint32_t max_tso_bytes; /* payload bytes of a super-frame, 0 without DEVICE_TSO */
	uint8_t mac[6];		/* our own address on it */
	int wait_fd;		/* -1: cannot sleep, must be polled */
	char name[32];		/* of the interface, for people */
};

/* Text for a person about what went wrong while opening. */
struct device_error {
	char text[256];
};

/*
 * Every open function returns 0 and the device, or a negative errno and the reason in words in err.
 * afxdp_open() and dpdk_open() that return 0 leave in err what the device has to do without ("no native XDP
 * here, ..."), for the log; empty when there is nothing to say.
 */

struct tap_config {
	const char *name;  /* of the interface to make or attach to; NULL or "": the kernel picks ("tap%d") */
	const char *netns; /* name of a network namespace (below /run/netns) to put the kernel's end into, or
			      NULL */
	const char *peer_addr; /* address and prefix for the kernel's end ("10.9.0.1/24"), or NULL: leave it
				  alone */
	uint32_t mtu;	       /* 0: 1500 */
	uint8_t mac[6];	       /* our end's address; all 0: a random local one */
	bool offload;	       /* TSO4 and checksum offload, both directions */
	bool plain_io;	       /* one system call a frame, also where io_uring is to be had */
};
int tap_open(const struct tap_config *config, struct device **out, struct device_error *err);

struct afxdp_config {
	const char *interface; /* existing, in the caller's network namespace */
	uint32_t queue;
	uint32_t frames;     /* in the umem, power of two; 0: as many as fit 32 MiB */
	bool force_generic;  /* generic (SKB) mode */
	bool zero_copy;	     /* ask for it; falls back to copy mode and says so in the log */
	bool trust_checksum; /* the peer end is a veth whose kernel sends partial checksums: believe them */
	/* Frames for these go to us, the rest passes to the kernel; addr_count 0: everything comes to us. */
	uint32_t addr_count;
	uint32_t addr[16]; /* IPv4, network byte order: TCP, ICMP and ARP for them are ours */
};
int afxdp_open(const struct afxdp_config *config, struct device **out, struct device_error *err);

struct dpdk_config {
	const char *eal_args; /* words for rte_eal_init, e.g. "--no-huge -m 256 --no-pci" */
	const char *device;   /* ethdev name or PCI address, e.g. "net_memif0" or "0000:01:00.0" */
	uint32_t queue;
	uint32_t mtu; /* 0: as the port has it */
};
int dpdk_open(const struct dpdk_config *config, struct device **out, struct device_error *err);

/*
 * A memory link: two devices joined back to back. slots is a power of two (0: 1024). mtu up to 65535.
 * The two ends may be used by two threads. With `loop` both ends are one device that receives what it sends.
 */
struct link_config {
	uint32_t slots;
	uint32_t mtu;
	uint32_t max_tso_bytes; /* 0: no DEVICE_TSO; else super-frames cross the link whole */
	uint8_t mac_a[6], mac_b[6];
};
int link_open_pair(
	const struct link_config *config, struct device **a, struct device **b, struct device_error *err);
int link_open_loop(const struct link_config *config, struct device **out, struct device_error *err);
/*
 * The same between two processes: create() makes a memfd and two eventfds and returns end a, and one fd that
 * carries all three (a socket). Whoever has that fd, by inheritance or SCM_RIGHTS, calls attach() once for
 * end b. The fd stays the caller's to close, in both processes.
 */
int link_create(const struct link_config *config, int *fd, struct device **a, struct device_error *err);
int link_attach(int fd, struct device **b, struct device_error *err);

/* Wraps a device: everything that passes is also written to a pcap file. Owns `under` once it returned 0. */
int pcap_open_tee(const char *path, struct device *under, struct device **out, struct device_error *err);

/*
 * Wraps a device: loses, duplicates, reorders, corrupts at random by seed, in both directions. Owns `under`
 * once it returned 0. With corrupt_ppm it hides DEVICE_TX_CSUM and DEVICE_TSO of the device below, which
 * would put the checksum right again.
 */
struct fault_config {
	uint64_t seed;
	uint32_t drop_ppm, duplicate_ppm, reorder_ppm, corrupt_ppm; /* parts per million of frames */
	uint32_t reorder_depth; /* frames a reordered one is held back for, 1..64 */
};
int fault_open(const struct fault_config *config, struct device *under, struct device **out,
	struct device_error *err);
/* What was done so far to the frames of each direction. */
struct fault_counts {
	uint64_t dropped, duplicated, reordered, corrupted;
};
void fault_counts_get(struct device *dev, struct fault_counts *rx, struct fault_counts *tx);

#endif
