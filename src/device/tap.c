/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A tap interface with virtio-net headers: the kernel's end looks like an Ethernet card to the host, our end
 * is a file descriptor. The header in front of each frame carries checksum and segmentation offload both
 * ways, so that super-frames of 64 KiB cross whole.
 *
 * Called by the one thread that polls the device. One read or write moves one frame and is a system call of
 * about 2,000 cycles, so what counts is how many of them we make. tap_uring.c moves many frames with one call
 * where io_uring is to be had; else a burst ends at the first "nothing there", and stops where the last
 * bursts ended rather than ask once more (burst_limit). tap_open.c makes and configures the interface.
 * Nothing here blocks.
 */
#include "device/tap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint8_t *frame_start(const struct buffers *buffers, uint32_t index)
{
	return buffers_at(buffers, index) + TAP_HEADROOM;
}

/* Fills in a received frame of len bytes, virtio-net header included; false when it is too short for one. */
static bool frame_from_buffer(struct tap *tap, uint32_t index, size_t len, struct frame *frame)
{
	struct virtio_header header;
	uint8_t *data = frame_start(&tap->rx, index);

	if (len < TAP_HEADER_BYTES + 14)
		return false;
	memcpy(&header, data - TAP_HEADER_BYTES, sizeof(header));
	memset(frame, 0, sizeof(*frame));
	frame->data = data;
	frame->len = (uint32_t)(len - TAP_HEADER_BYTES);
	frame->cookie = index;
	/* The kernel vouches for the payload: verified below it, or never left this machine. */
	if (header.flags & (VIRTIO_NEEDS_CSUM | VIRTIO_DATA_VALID))
		frame->flags = FRAME_CSUM_GOOD;
	if ((header.gso_type & ~VIRTIO_GSO_ECN) == VIRTIO_GSO_TCPV4) {
		frame->flags |= FRAME_TSO;
		frame->gso_size = header.gso_size;
		frame->hdr_len = header.hdr_len;
	}
	return true;
}

static unsigned uring_rx_burst(struct tap *tap, struct frame *frames, unsigned n)
{
	uint32_t buffers[TAP_URING_BURST], lens[TAP_URING_BURST];
	unsigned count = tap_uring_rx(tap, buffers, lens, n < TAP_URING_BURST ? n : TAP_URING_BURST), got = 0;

	for (unsigned i = 0; i < count; i++) {
		if (!frame_from_buffer(tap, buffers[i], lens[i], &frames[got])) {
			buffers_put(&tap->rx, buffers[i]);
			tap->stats.rx_errors++;
			continue;
		}
		prefetch(frames[got].data);
		tap->stats.rx_bytes += frames[got].len;
		got++;
	}
	tap->stats.rx_frames += got;
	if (unlikely(tap_uring_broken(tap)))
		tap_uring_stop(tap);
	return got;
}

static unsigned tap_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct tap *tap = container_of(dev, struct tap, dev);
	unsigned limit = n < tap->burst_limit ? n : tap->burst_limit;
	unsigned got = 0;

	if (unlikely(tap->uring_wanted)) {
		tap->uring_wanted = false;
		tap_uring_start(tap);
	}
	if (likely(tap->uring))
		return uring_rx_burst(tap, frames, n);
	while (got < limit && tap->rx.free_count) {
		uint32_t index = buffers_get(&tap->rx);
		ssize_t len = read(tap->fd, frame_start(&tap->rx, index) - TAP_HEADER_BYTES,
			TAP_HEADER_BYTES + TAP_FRAME_BYTES);

		if (len < 0) {
			buffers_put(&tap->rx, index);
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				tap->stats.rx_errors++;
			tap->burst_limit = got ? got : 1;
			break;
		}
		if (!frame_from_buffer(tap, index, (size_t)len, &frames[got])) {
			buffers_put(&tap->rx, index);
			tap->stats.rx_errors++;
			continue;
		}
		tap->stats.rx_bytes += frames[got].len;
		got++;
	}
	/* All we dared to ask for was there: dare twice as much next time. */
	if (got && got == tap->burst_limit && tap->burst_limit < TAP_BURST_MAX)
		tap->burst_limit *= 2;
	tap->stats.rx_frames += got;
	return got;
}

static void tap_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	struct tap *tap = container_of(dev, struct tap, dev);

	/* Backwards, so that the buffer touched first is taken first again. */
	for (unsigned i = n; i-- > 0;)
		buffers_put(&tap->rx, (uint32_t)frames[i].cookie);
}

static unsigned tap_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct tap *tap = container_of(dev, struct tap, dev);

	if (n > tap->tx.free_count)
		n = tap->tx.free_count;
	for (unsigned i = 0; i < n; i++) {
		uint32_t index = buffers_get(&tap->tx);

		memset(&frames[i], 0, sizeof(frames[i]));
		frames[i].data = frame_start(&tap->tx, index);
		frames[i].room = TAP_FRAME_BYTES;
		frames[i].cookie = index;
	}
	return n;
}

static void tap_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	struct tap *tap = container_of(dev, struct tap, dev);

	for (unsigned i = n; i-- > 0;)
		buffers_put(&tap->tx, (uint32_t)frames[i].cookie);
}

static void header_fill(struct virtio_header *header, const struct frame *frame)
{
	memset(header, 0, sizeof(*header));
	if (!(frame->flags & (FRAME_CSUM_OFFLOAD | FRAME_TSO)))
		return;
	header->flags = VIRTIO_NEEDS_CSUM;
	header->csum_start = frame->csum_start;
	header->csum_offset = frame->csum_offset;
	if (!(frame->flags & FRAME_TSO))
		return;
	header->gso_type = VIRTIO_GSO_TCPV4;
	header->gso_size = frame->gso_size;
	header->hdr_len = frame->hdr_len;
	/* A super-frame whose TCP header says CWR (0x80 in its byte 13) must be marked so. */
	if (frame->csum_start + 13u < frame->len && (frame->data[frame->csum_start + 13u] & 0x80u))
		header->gso_type |= VIRTIO_GSO_ECN;
}

static unsigned tap_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct tap *tap = container_of(dev, struct tap, dev);
	unsigned done = 0;

	while (done < n) {
		struct frame *frame = &frames[done];
		struct virtio_header header;
		struct iovec iov[1 + FRAME_FRAGS];
		/* The headroom in front of the frame is ours, also when the caller moved `data` on. */
		uint8_t *start = frame->data - TAP_HEADER_BYTES;
		size_t total = TAP_HEADER_BYTES + frame->len;
		unsigned pieces = 1;
		ssize_t sent;

		header_fill(&header, frame);
		memcpy(start, &header, sizeof(header));
		iov[0] = (struct iovec){start, total};
		for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++) {
			iov[pieces++] =
				(struct iovec){(void *)(uintptr_t)frame->frag[i].data, frame->frag[i].len};
			total += frame->frag[i].len;
		}
		if (tap->uring) {
			tap_uring_tx(tap, (uint32_t)frame->cookie, iov, pieces, (uint32_t)total);
			done++;
			continue;
		}
		sent = pieces == 1 ? write(tap->fd, start, total) : writev(tap->fd, iov, (int)pieces);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS))
			break;
		if (sent == (ssize_t)total) {
			tap->stats.tx_frames++;
			tap->stats.tx_bytes += total - TAP_HEADER_BYTES;
		} else {
			tap->stats.tx_dropped++;
		}
		buffers_put(&tap->tx, (uint32_t)frame->cookie);
		done++;
	}
	return done;
}

static void tap_tx_flush(struct device *dev)
{
	struct tap *tap = container_of(dev, struct tap, dev);

	if (!tap->uring)
		return; /* each write was sent at once */
	tap_uring_tx_flush(tap);
	if (unlikely(tap_uring_broken(tap)))
		tap_uring_stop(tap);
}

/* The file descriptor is readable as long as a frame waits in the kernel: nothing to arm, nothing to miss. */
static bool tap_wait_begin(struct device *dev)
{
	struct tap *tap = container_of(dev, struct tap, dev);

	return tap->uring && tap_uring_rx_waiting(tap);
}

static void tap_wait_end(struct device *dev)
{
	(void)dev;
}

static void tap_stats(struct device *dev, struct device_stats *out)
{
	*out = container_of(dev, struct tap, dev)->stats;
}

static void tap_close(struct device *dev)
{
	struct tap *tap = container_of(dev, struct tap, dev);

	tap_uring_stop(tap);
	if (tap->fd >= 0)
		close(tap->fd);
	buffers_destroy(&tap->rx);
	buffers_destroy(&tap->tx);
	free(tap);
}

const struct device_ops tap_ops = {
	.name = "tap",
	.rx_burst = tap_rx_burst,
	.rx_release = tap_rx_release,
	.tx_alloc = tap_tx_alloc,
	.tx_burst = tap_tx_burst,
	.tx_free = tap_tx_free,
	.tx_flush = tap_tx_flush,
	.wait_begin = tap_wait_begin,
	.wait_end = tap_wait_end,
	.stats = tap_stats,
	.close = tap_close,
};
