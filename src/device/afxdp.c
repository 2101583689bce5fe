/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * AF_XDP: frames of one queue of an existing interface, taken from the kernel by an XDP program and shared
 * through memory (umem) and four rings. Called by the one thread that polls the device; afxdp_open.c makes
 * the socket. Receiving makes no system call; sending makes one or more per tx_flush().
 *
 * The umem's chunks are divided for good: most go round through fill and receive ring, the rest through
 * transmit and completion ring. All receive chunks are on offer, and the receive ring has a place for each:
 * what arrives while we are not looking (an application has our core) waits. A packet longer than a chunk
 * comes and goes as several descriptors: on the way in its pieces lie behind each other (afxdp.h), and are
 * put together in a linear buffer only where they do not; it is cut on the way out; fragments
 * (DEVICE_TX_GATHER) are copied into chunks by tx_burst().
 */
#include "device/afxdp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/libbpf.h>

#define COOKIE_LINEAR (1ull << 63) /* the frame lies in a linear buffer, not in the umem */
#define KICKS_MAX     128u /* a call sends up to 32 pieces, the ring holds 2048: twice what it takes */

static struct afxdp *afxdp_of(struct device *dev)
{
	return container_of(dev, struct afxdp, dev);
}

/* Entries the kernel has for us. */
static uint32_t ring_ready(struct afxdp_ring *ring)
{
	ring->seen = load_acquire32(ring->producer);
	return ring->seen - ring->own;
}

/* Places the kernel has for us. */
static uint32_t ring_room(struct afxdp_ring *ring, uint32_t wanted)
{
	uint32_t room = ring->size - (ring->own - ring->seen);

	if (room < wanted) {
		ring->seen = load_acquire32(ring->consumer);
		room = ring->size - (ring->own - ring->seen);
	}
	return room;
}

static struct xdp_desc *ring_desc(const struct afxdp_ring *ring, uint32_t index)
{
	return &((struct xdp_desc *)ring->entries)[index & (ring->size - 1)];
}

static uint64_t *ring_address(const struct afxdp_ring *ring, uint32_t index)
{
	return &((uint64_t *)ring->entries)[index & (ring->size - 1)];
}

/* Gives the kernel all the slots that are home, in order. The ring has a place for each. */
static void fill_refill(struct afxdp *afxdp)
{
	struct afxdp_ring *fill = &afxdp->fill;

	if (!afxdp->rx_home_count || !afxdp->rx_home[afxdp->rx_next])
		return;
	do {
		*ring_address(fill, fill->own++) = (uint64_t)afxdp->rx_next * afxdp->rx_step;
		afxdp->rx_home[afxdp->rx_next] = 0;
		afxdp->rx_home_count--;
		if (++afxdp->rx_next == afxdp->rx_slots)
			afxdp->rx_next = 0;
	} while (afxdp->rx_home[afxdp->rx_next]);
	store_release32(fill->producer, fill->own);
	if (unlikely(load_relaxed32(fill->flags) & XDP_RING_NEED_WAKEUP))
		recvfrom(afxdp->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static void slots_put(struct afxdp *afxdp, uint32_t slot, uint32_t count)
{
	afxdp->rx_home_count += count;
	memset(afxdp->rx_home + slot, 1, count);
}

static void chunk_put(struct afxdp *afxdp, uint64_t addr)
{
	afxdp->tx_free.free[afxdp->tx_free.count++] = addr & ~(uint64_t)(afxdp->chunk - 1);
}

static void frame_offer(
	const struct afxdp *afxdp, struct frame *frame, uint8_t *data, uint32_t len, uint64_t cookie)
{
	memset(frame, 0, sizeof(*frame));
	frame->data = data;
	frame->len = len;
	frame->cookie = cookie;
	if (afxdp->trust_checksum)
		frame->flags = FRAME_CSUM_GOOD;
	/* Generic mode hands out the super-frames of a peer on this machine without saying how they were to
	   be cut: as the MTU would have it, with timestamps. */
	if (len > afxdp->dev.mtu + 14) {
		frame->flags |= FRAME_TSO;
		frame->gso_size = (uint16_t)(afxdp->dev.mtu - 52);
		frame->hdr_len = 66;
	}
}

/* The next piece does not lie behind those before: they move to a linear buffer, if there is one. */
static void assembly_move(struct afxdp *afxdp)
{
	struct afxdp_assembly *a = &afxdp->assembly;

	if (!afxdp->linear.free_count) {
		a->bad = true;
		afxdp->stats.rx_dropped++;
	} else {
		a->copied = true;
		a->linear = buffers_get(&afxdp->linear);
		memcpy(buffers_at(&afxdp->linear, a->linear), a->data, a->len);
		a->data = buffers_at(&afxdp->linear, a->linear);
	}
	slots_put(afxdp, a->slot, a->pieces);
	a->pieces = 0;
}

static void assembly_drop(struct afxdp *afxdp)
{
	struct afxdp_assembly *a = &afxdp->assembly;

	a->bad = true;
	afxdp->stats.rx_errors++;
	if (a->copied)
		buffers_put(&afxdp->linear, a->linear);
	else
		slots_put(afxdp, a->slot, a->pieces);
}

/* One piece of a packet of several; true when the packet is whole and in *frame. */
static bool piece_add(
	struct afxdp *afxdp, uint32_t slot, uint8_t *data, uint32_t len, bool last, struct frame *frame)
{
	struct afxdp_assembly *a = &afxdp->assembly;

	if (!a->open)
		*a = (struct afxdp_assembly){.open = true, .slot = slot, .data = data};
	if (!a->bad && len > AFXDP_LINEAR_BYTES - a->len)
		assembly_drop(afxdp);
	if (!a->bad && !a->copied && (slot != a->slot + a->pieces || data != a->data + a->len))
		assembly_move(afxdp);
	if (!a->bad && !a->copied) {
		a->pieces++;
	} else {
		if (!a->bad)
			memcpy(a->data + a->len, data, len);
		slots_put(afxdp, slot, 1);
	}
	a->len += len;
	if (!last)
		return false;
	a->open = false;
	if (a->bad)
		return false;
	frame_offer(afxdp, frame, a->data, a->len,
		a->copied ? COOKIE_LINEAR | a->linear : (uint64_t)a->pieces << 32 | a->slot);
	return true;
}

static unsigned afxdp_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct afxdp *afxdp = afxdp_of(dev);
	struct afxdp_ring *rx = &afxdp->rx;
	uint32_t ready = rx->seen - rx->own;
	unsigned got = 0;

	if (unlikely(afxdp->tx_pending))
		dev->ops->tx_flush(dev);
	if (ready < n)
		ready = ring_ready(rx);
	if (!ready)
		return 0;
	for (; ready && got < n; ready--) {
		const struct xdp_desc *desc = ring_desc(rx, rx->own++);
		/* With overlapping chunks the upper bits are an offset to add, otherwise 0. */
		uint64_t addr = (desc->addr & XSK_UNALIGNED_BUF_ADDR_MASK) +
				(desc->addr >> XSK_UNALIGNED_BUF_OFFSET_SHIFT);
		/* Both are multiples of 64 and more: 32 bits do. */
		uint32_t slot = (uint32_t)(addr >> 6) / (afxdp->rx_step >> 6);
		uint8_t *data = afxdp->umem + addr;
		bool last = !(desc->options & AFXDP_PKT_CONTD);

		if (unlikely(slot >= afxdp->rx_slots)) {
			afxdp->stats.rx_errors++;
			continue;
		}
		if (unlikely(afxdp->assembly.open || !last)) {
			if (!piece_add(afxdp, slot, data, desc->len, last, &frames[got]))
				continue;
		} else {
			prefetch(data);
			frame_offer(afxdp, &frames[got], data, desc->len, (uint64_t)1 << 32 | slot);
		}
		if (unlikely(frames[got].len < 14)) {
			afxdp->stats.rx_errors++;
			dev->ops->rx_release(dev, &frames[got], 1);
			continue;
		}
		afxdp->stats.rx_bytes += frames[got].len;
		got++;
	}
	store_release32(rx->consumer, rx->own);
	fill_refill(afxdp);
	afxdp->stats.rx_frames += got;
	return got;
}

static void afxdp_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	struct afxdp *afxdp = afxdp_of(dev);

	for (unsigned i = 0; i < n; i++) {
		if (frames[i].cookie & COOKIE_LINEAR)
			buffers_put(&afxdp->linear, (uint32_t)frames[i].cookie);
		else
			slots_put(afxdp, (uint32_t)frames[i].cookie, (uint32_t)(frames[i].cookie >> 32));
	}
	/* Lets many come together before the kernel's cache line is touched, but never lets it run dry. */
	if (afxdp->rx_home_count >= afxdp->rx_slots / 4)
		fill_refill(afxdp);
}

/* Takes back the chunks of what was sent. */
static void done_collect(struct afxdp *afxdp)
{
	struct afxdp_ring *done = &afxdp->done;
	uint32_t ready = ring_ready(done);

	if (!ready)
		return;
	while (ready--)
		chunk_put(afxdp, *ring_address(done, done->own++));
	store_release32(done->consumer, done->own);
}

static unsigned afxdp_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct afxdp *afxdp = afxdp_of(dev);
	bool linear = afxdp->tx_linear;
	uint32_t available;

	if (afxdp->tx_free.count < n)
		done_collect(afxdp);
	available = linear ? afxdp->linear.free_count : afxdp->tx_free.count;
	/* The other half of the linear buffers is for receiving. */
	if (linear)
		available = available > AFXDP_LINEAR_COUNT / 2 ? available - AFXDP_LINEAR_COUNT / 2 : 0;
	if (n > available)
		n = available;
	for (unsigned i = 0; i < n; i++) {
		memset(&frames[i], 0, sizeof(frames[i]));
		if (linear) {
			uint32_t index = buffers_get(&afxdp->linear);

			frames[i].cookie = COOKIE_LINEAR | index;
			frames[i].data = buffers_at(&afxdp->linear, index);
			frames[i].room = AFXDP_LINEAR_BYTES;
		} else {
			uint64_t addr = afxdp->tx_free.free[--afxdp->tx_free.count];

			frames[i].cookie = addr;
			frames[i].data = afxdp->umem + addr + AFXDP_METADATA;
			frames[i].room = afxdp->piece;
		}
	}
	return n;
}

static void afxdp_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	struct afxdp *afxdp = afxdp_of(dev);

	for (unsigned i = n; i-- > 0;) {
		if (frames[i].cookie & COOKIE_LINEAR)
			buffers_put(&afxdp->linear, (uint32_t)frames[i].cookie);
		else
			chunk_put(afxdp, frames[i].cookie);
	}
}

/* Asks for the checksum in the words in front of a packet's first piece; returns the descriptor's option. */
static uint32_t metadata_fill(uint8_t *data, const struct frame *frame)
{
	struct afxdp_tx_metadata metadata = {.flags = AFXDP_TXMD_FLAGS_CHECKSUM,
		.csum_start = frame->csum_start,
		.csum_offset = frame->csum_offset};

	memcpy(data - AFXDP_METADATA, &metadata, sizeof(metadata));
	return AFXDP_TX_METADATA;
}

/* Where the copying of a packet into chunks stands. */
struct cut {
	struct afxdp *afxdp;
	unsigned pieces;
	uint64_t addr[AFXDP_PIECES];
	uint32_t len[AFXDP_PIECES];
};

/* Room for all of it was checked before. */
static void cut_append(struct cut *cut, const uint8_t *from, uint32_t len)
{
	struct afxdp *afxdp = cut->afxdp;

	while (len) {
		uint32_t part;

		if (!cut->pieces || cut->len[cut->pieces - 1] == afxdp->piece) {
			cut->addr[cut->pieces] = afxdp->tx_free.free[--afxdp->tx_free.count] + AFXDP_METADATA;
			cut->len[cut->pieces++] = 0;
		}
		part = afxdp->piece - cut->len[cut->pieces - 1];
		if (part > len)
			part = len;
		memcpy(afxdp->umem + cut->addr[cut->pieces - 1] + cut->len[cut->pieces - 1], from, part);
		cut->len[cut->pieces - 1] += part;
		from += part;
		len -= part;
	}
}

/* Sends a frame that does not lie in one chunk already. 1: sent, 0: no room now, -1: cannot be sent. */
static int frame_cut(struct afxdp *afxdp, const struct frame *frame, uint32_t total)
{
	uint32_t pieces = (total + afxdp->piece - 1) / afxdp->piece;
	struct afxdp_ring *tx = &afxdp->tx;
	struct cut cut = {.afxdp = afxdp};

	if (pieces > (afxdp->multi ? AFXDP_PIECES : 1))
		return -1;
	if (afxdp->tx_free.count < pieces)
		done_collect(afxdp);
	if (afxdp->tx_free.count < pieces || ring_room(tx, pieces) < pieces)
		return 0;
	cut_append(&cut, frame->data, frame->len);
	for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++)
		cut_append(&cut, frame->frag[i].data, frame->frag[i].len);
	for (unsigned i = 0; i < cut.pieces; i++) {
		uint32_t options = i + 1 < cut.pieces ? AFXDP_PKT_CONTD : 0;

		if (!i && (frame->flags & FRAME_CSUM_OFFLOAD))
			options |= metadata_fill(afxdp->umem + cut.addr[i], frame);
		*ring_desc(tx, tx->own++) = (struct xdp_desc){cut.addr[i], cut.len[i], options};
	}
	afxdp->stats.tx_frames++;
	afxdp->stats.tx_bytes += total;
	return 1;
}

/* Sends a frame that fits the chunk it lies in; fragments move up behind it. */
static void chunk_send(struct afxdp *afxdp, const struct frame *frame, uint32_t total)
{
	uint8_t *to = frame->data + frame->len;
	uint32_t options = 0;

	for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++) {
		memcpy(to, frame->frag[i].data, frame->frag[i].len);
		to += frame->frag[i].len;
	}
	if (frame->flags & FRAME_CSUM_OFFLOAD)
		options = metadata_fill(frame->data, frame);
	*ring_desc(&afxdp->tx, afxdp->tx.own++) =
		(struct xdp_desc){(uint64_t)(frame->data - afxdp->umem), total, options};
	afxdp->stats.tx_frames++;
	afxdp->stats.tx_bytes += total;
}

static unsigned afxdp_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct afxdp *afxdp = afxdp_of(dev);
	struct afxdp_ring *tx = &afxdp->tx;
	unsigned done;

	for (done = 0; done < n; done++) {
		struct frame *frame = &frames[done];
		uint32_t total = frame->len;
		/* TSO cannot be had here, nor a checksum from a kernel that knows no metadata. */
		int sent = -1;

		for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++)
			total += frame->frag[i].len;
		if (total >= 14 && likely(!afxdp->gone) &&
			!(frame->flags & (afxdp->metadata ? FRAME_TSO : FRAME_TSO | FRAME_CSUM_OFFLOAD))) {
			if (!(frame->cookie & COOKIE_LINEAR) && total <= frame->room) {
				if (!ring_room(tx, 1))
					break;
				chunk_send(afxdp, frame, total);
				afxdp->tx_pending = true;
				continue;
			}
			sent = frame_cut(afxdp, frame, total);
			if (!sent)
				break;
		}
		afxdp_tx_free(dev, frame, 1);
		if (sent > 0)
			afxdp->tx_pending = true;
		else
			afxdp->stats.tx_dropped++;
	}
	return done;
}

/* The interface went away: what waits on the ring is lost. */
static void tx_abandon(struct afxdp *afxdp)
{
	struct afxdp_ring *tx = &afxdp->tx;

	for (; tx->own != tx->seen; tx->own--) {
		const struct xdp_desc *desc = ring_desc(tx, tx->own - 1);

		chunk_put(afxdp, desc->addr);
		if (!(desc->options & AFXDP_PKT_CONTD)) {
			afxdp->stats.tx_frames--;
			afxdp->stats.tx_dropped++;
		}
	}
	store_release32(tx->producer, tx->own);
	afxdp->gone = true;
	afxdp->tx_pending = false;
}

/* One call does not empty the ring: call until the kernel has taken all, or says that it cannot now. */
static void afxdp_tx_flush(struct device *dev)
{
	struct afxdp *afxdp = afxdp_of(dev);
	struct afxdp_ring *tx = &afxdp->tx;

	if (!afxdp->tx_pending)
		return;
	store_release32(tx->producer, tx->own);
	full_fence(); /* the kernel sees the entries before we look whether it wants to be told */
	afxdp->tx_refused = false;
	tx->seen = load_acquire32(tx->consumer);
	for (unsigned kicks = 0; kicks < KICKS_MAX; kicks++) {
		uint32_t before = tx->seen;
		int error = 0;

		if (tx->seen == tx->own) {
			afxdp->tx_pending = false;
			return;
		}
		if (!(load_relaxed32(tx->flags) & XDP_RING_NEED_WAKEUP))
			return; /* the driver is at it by itself */
		if (sendto(afxdp->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0)
			error = errno;
		tx->seen = load_acquire32(tx->consumer);
		if (error == ENXIO) {
			tx_abandon(afxdp);
			return;
		}
		/* EAGAIN: so many a call, or no memory for more. ENETDOWN: whoever brings it up does not tell
		   us; what waits goes out with the next frame that is sent. */
		if (error && tx->seen == before && error != EINTR) {
			afxdp->tx_refused = error != ENETDOWN;
			done_collect(afxdp);
			return;
		}
	}
}

/* The socket is readable as long as a frame waits. What was not sent yet needs more rounds. */
static bool afxdp_wait_begin(struct device *dev)
{
	struct afxdp *afxdp = afxdp_of(dev);

	if (afxdp->tx_pending)
		afxdp_tx_flush(dev);
	fill_refill(afxdp);
	return ring_ready(&afxdp->rx) > 0 || (afxdp->tx_pending && afxdp->tx_refused);
}

static void afxdp_wait_end(struct device *dev)
{
	(void)dev;
}

static void afxdp_stats(struct device *dev, struct device_stats *out)
{
	struct afxdp *afxdp = afxdp_of(dev);
	struct xdp_statistics kernel = {0};
	socklen_t len = sizeof(kernel);

	*out = afxdp->stats;
	if (getsockopt(afxdp->fd, SOL_XDP, XDP_STATISTICS, &kernel, &len))
		return;
	out->rx_dropped += kernel.rx_dropped + kernel.rx_ring_full;
	out->rx_errors += kernel.rx_invalid_descs;
	out->tx_dropped += kernel.tx_invalid_descs;
}

static void afxdp_close(struct device *dev)
{
	struct afxdp *afxdp = afxdp_of(dev);
	struct afxdp_ring *rings[] = {&afxdp->rx, &afxdp->fill, &afxdp->tx, &afxdp->done};

	/* The program first: from then on frames go to the kernel again. */
	if (afxdp->link_fd >= 0)
		close(afxdp->link_fd);
	if (afxdp->object)
		bpf_object__close(afxdp->object);
	for (unsigned i = 0; i < ARRAY_SIZE(rings); i++)
		if (rings[i]->map)
			munmap(rings[i]->map, rings[i]->map_bytes);
	if (afxdp->fd >= 0)
		close(afxdp->fd);
	if (afxdp->umem)
		munmap(afxdp->umem, afxdp->umem_bytes);
	buffers_destroy(&afxdp->linear);
	free(afxdp->rx_home);
	free(afxdp->tx_free.free);
	free(afxdp);
}

const struct device_ops afxdp_ops = {
	.name = "afxdp",
	.rx_burst = afxdp_rx_burst,
	.rx_release = afxdp_rx_release,
	.tx_alloc = afxdp_tx_alloc,
	.tx_burst = afxdp_tx_burst,
	.tx_free = afxdp_tx_free,
	.tx_flush = afxdp_tx_flush,
	.wait_begin = afxdp_wait_begin,
	.wait_end = afxdp_wait_end,
	.stats = afxdp_stats,
	.close = afxdp_close,
};
