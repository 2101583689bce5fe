/* SPDX-License-Identifier: BSD-3-Clause */
/* The memory link's own structures, shared by link.c (frames) and link_open.c (memory and doorbells). */
#ifndef DEVICE_LINK_H
#define DEVICE_LINK_H

#include "device/internal.h"

#define LINK_HEADROOM  128u
#define LINK_FRAME_MIN 14u /* an Ethernet header */
#define LINK_SLOTS_MAX 65536u
#define LINK_MAGIC     0x6b6e696c58544c46ull /* "FLTXlink" */
#define LINK_VERSION   1u

struct link_slot {
	uint32_t buffer;
	uint32_t len;
	uint16_t flags; /* FRAME_CSUM_GOOD, FRAME_TSO as the receiver is to see them */
	uint16_t gso_size;
	uint16_t hdr_len;
	uint16_t reserved;
};
_Static_assert(sizeof(struct link_slot) == 16, "shared layout");

/* Indices of one direction, in shared memory: one cache line for each writer. */
struct link_shared {
	CACHE_ALIGNED uint32_t sent_head; /* written by the sender: end of what is in the sent ring */
	CACHE_ALIGNED uint32_t back_head; /* written by the receiver: end of what is in the back ring */
	CACHE_ALIGNED uint32_t asleep;	  /* set by the receiver, cleared by either */
};
_Static_assert(sizeof(struct link_shared) == 192, "shared layout");

/* Head of the shared memory; then for each direction the sent ring and the back ring, then the buffers. */
struct link_header {
	uint64_t magic;
	uint32_t version;
	uint32_t slots;
	uint32_t mtu;
	uint32_t max_tso_bytes;
	uint8_t mac_b[6];
	uint8_t reserved[2];
	struct link_shared direction[2]; /* 0: a to b */
};

/* One end's view of one direction; sender and receiver each have their own. */
struct link_end {
	struct link_shared *shared;
	struct link_slot *sent;
	uint32_t *back;
	uint8_t *buffers;
	uint32_t slots, stride, room;
	uint32_t sent_next;  /* sender: next place to fill; receiver: next to read */
	uint32_t sent_seen;  /* receiver: sent_head as last seen */
	uint32_t back_next;  /* receiver: next place to fill; sender: next to read */
	uint32_t flushed;    /* sender: sent_next when the receiver was last looked after */
	uint32_t free_count; /* sender: the stack of buffers at home, and which are away */
	uint32_t *free;
	uint8_t *away;
};

/* A mapping, held by one or two ends of the same process. */
struct link_memory {
	uint8_t *base;
	size_t bytes;
	int holders; /* atomic: the ends may be closed by two threads */
};
void link_memory_put(struct link_memory *memory);

struct link {
	struct device dev; /* wait_fd: our own eventfd */
	struct link_end rx, tx;
	struct device_stats stats;
	int peer_fd; /* the other side's eventfd */
	bool armed;  /* between wait_begin() and wait_end() */
	bool owed;   /* a kick was announced (asleep cleared) whose write has not been read yet */
	struct link_memory *memory;
};

extern const struct device_ops link_ops;

#endif
