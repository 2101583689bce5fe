/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A tee: wraps a device and writes every frame that passes, both ways, to a pcap file with nanosecond times.
 * Frames are recorded as they pass here: a checksum that is left to the device below shows its pseudo-header
 * sum, a super-frame is one record. Called by the thread that polls the device, which pays for the writes.
 *
 * The format is the classic one: a 24-byte header, then 16 bytes in front of each frame, in host order. When
 * the file can no longer be written (disk full), the capture ends there and the traffic goes on.
 */
#include "device/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PCAP_MAGIC_NS 0xa1b23c4du
#define PCAP_ETHERNET 1u
#define PCAP_SNAPLEN  262144u
#define FILE_BUFFER   (1u << 20)
#define STAGE_FRAMES  8u
/* The longest frames with their record headers. */
#define STAGE_BYTES (STAGE_FRAMES * (65535u + 256u + 16u))

struct pcap_file_header {
	uint32_t magic;
	uint16_t major, minor;
	uint32_t zone, accuracy;
	uint32_t snaplen;
	uint32_t link_type;
};

struct pcap_record {
	uint32_t seconds, nanoseconds;
	uint32_t captured, length;
};

struct tee {
	struct device dev;
	struct device *under;
	FILE *file; /* NULL once a write failed */
	bool dirty; /* something waits in the file's buffer */
	uint8_t stage[STAGE_BYTES];
};

static struct tee *tee_of(struct device *dev)
{
	return container_of(dev, struct tee, dev);
}

static struct pcap_record record_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (struct pcap_record){.seconds = (uint32_t)now.tv_sec, .nanoseconds = (uint32_t)now.tv_nsec};
}

static void tee_write(struct tee *tee, const void *bytes, size_t len)
{
	if (!tee->file || !len)
		return;
	tee->dirty = true;
	if (fwrite(bytes, 1, len, tee->file) == len)
		return;
	fclose(tee->file);
	tee->file = NULL;
}

static void tee_sync(struct tee *tee)
{
	if (tee->file && tee->dirty)
		fflush(tee->file);
	tee->dirty = false;
}

static unsigned tee_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct tee *tee = tee_of(dev);
	unsigned got = tee->under->ops->rx_burst(tee->under, frames, n);
	struct pcap_record record;

	if (!got) {
		/* Idle: whoever looks at the file sees everything up to here. */
		tee_sync(tee);
		return 0;
	}
	record = record_now();
	for (unsigned i = 0; i < got; i++) {
		record.captured = record.length = frames[i].len;
		tee_write(tee, &record, sizeof(record));
		tee_write(tee, frames[i].data, frames[i].len);
	}
	return got;
}

static void tee_rx_release(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = tee_of(dev)->under;

	under->ops->rx_release(under, frames, n);
}

static unsigned tee_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = tee_of(dev)->under;

	return under->ops->tx_alloc(under, frames, n);
}

static void tee_tx_free(struct device *dev, struct frame *frames, unsigned n)
{
	struct device *under = tee_of(dev)->under;

	under->ops->tx_free(under, frames, n);
}

/* Lays the record of a frame out at `at`; returns its bytes, 0 when there is no room for it. */
static size_t record_stage(uint8_t *at, size_t room, struct pcap_record record, const struct frame *frame)
{
	size_t len = frame->len, used = sizeof(record);

	for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++)
		len += frame->frag[i].len;
	if (sizeof(record) + len > room)
		return 0;
	record.captured = record.length = (uint32_t)len;
	memcpy(at, &record, sizeof(record));
	memcpy(at + used, frame->data, frame->len);
	used += frame->len;
	for (unsigned i = 0; i < frame->frag_count && i < FRAME_FRAGS; i++) {
		memcpy(at + used, frame->frag[i].data, frame->frag[i].len);
		used += frame->frag[i].len;
	}
	return used;
}

/* A frame is gone once the device below took it, and is no record if it did not: copy first, write later. */
static unsigned tee_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct tee *tee = tee_of(dev);
	unsigned done = 0;

	while (done < n) {
		unsigned count = n - done < STAGE_FRAMES ? n - done : STAGE_FRAMES, taken;
		struct pcap_record record = record_now();
		size_t end[STAGE_FRAMES], used = 0;

		for (unsigned i = 0; i < count; i++) {
			used += record_stage(
				tee->stage + used, sizeof(tee->stage) - used, record, &frames[done + i]);
			end[i] = used;
		}
		taken = tee->under->ops->tx_burst(tee->under, frames + done, count);
		if (taken)
			tee_write(tee, tee->stage, end[taken - 1]);
		done += taken;
		if (taken < count)
			break;
	}
	return done;
}

static void tee_tx_flush(struct device *dev)
{
	struct device *under = tee_of(dev)->under;

	under->ops->tx_flush(under);
}

static bool tee_wait_begin(struct device *dev)
{
	struct tee *tee = tee_of(dev);

	tee_sync(tee);
	return tee->under->ops->wait_begin(tee->under);
}

static void tee_wait_end(struct device *dev)
{
	struct device *under = tee_of(dev)->under;

	under->ops->wait_end(under);
}

static void tee_stats(struct device *dev, struct device_stats *out)
{
	struct device *under = tee_of(dev)->under;

	under->ops->stats(under, out);
}

static void tee_close(struct device *dev)
{
	struct tee *tee = tee_of(dev);

	if (tee->file)
		fclose(tee->file);
	tee->under->ops->close(tee->under);
	free(tee);
}

static const struct device_ops tee_ops = {
	.name = "pcap",
	.rx_burst = tee_rx_burst,
	.rx_release = tee_rx_release,
	.tx_alloc = tee_tx_alloc,
	.tx_burst = tee_tx_burst,
	.tx_free = tee_tx_free,
	.tx_flush = tee_tx_flush,
	.wait_begin = tee_wait_begin,
	.wait_end = tee_wait_end,
	.stats = tee_stats,
	.close = tee_close,
};

int pcap_open_tee(const char *path, struct device *under, struct device **out, struct device_error *err)
{
	const struct pcap_file_header header = {.magic = PCAP_MAGIC_NS,
		.major = 2,
		.minor = 4,
		.snaplen = PCAP_SNAPLEN,
		.link_type = PCAP_ETHERNET};
	struct tee *tee = calloc(1, sizeof(*tee));
	int error;

	if (!tee)
		return device_fail(err, -ENOMEM, "out of memory");
	tee->file = fopen(path, "wbe");
	if (!tee->file) {
		error = -errno;
		free(tee);
		return device_fail(err, error, "cannot write %s: %s", path, strerror(-error));
	}
	setvbuf(tee->file, NULL, _IOFBF, FILE_BUFFER);
	if (fwrite(&header, sizeof(header), 1, tee->file) != 1 || fflush(tee->file)) {
		error = errno ? -errno : -EIO;
		fclose(tee->file);
		free(tee);
		return device_fail(err, error, "cannot write %s: %s", path, strerror(-error));
	}
	tee->under = under;
	tee->dev = *under;
	tee->dev.ops = &tee_ops;
	*out = &tee->dev;
	return 0;
}
