/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Opens the configured devices, wraps them for captures and faults, and adds the loop over which the engine's
 * own addresses talk to each other. Runs before and after the engine's loop, on its thread. It adds to a
 * device's own reason what a person can do about it.
 */
#include "daemon/ports.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/platform.h"
#include "daemon/log.h"

#define LINK_MTU_DEFAULT 1500u
#define LOOP_MTU	 65535u
#define TSO_BYTES_MAX	 65495u /* 65535 - 20 (IPv4) - 20 (TCP) */

static int unix_address(const char *path, struct sockaddr_un *un)
{
	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(un->sun_path))
		return -ENAMETOOLONG;
	memcpy(un->sun_path, path, strlen(path) + 1);
	return 0;
}

static int link_serve_open(struct ports *ports, const char *path)
{
	struct sockaddr_un un;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0)
		return -errno;
	rc = unix_address(path, &un);
	if (rc == 0) {
		unlink(path);
		if (bind(fd, (struct sockaddr *)&un, sizeof(un)) != 0 || chmod(path, 0600) != 0 ||
			listen(fd, 1) != 0)
			rc = -errno;
	}
	if (rc != 0) {
		close(fd);
		return rc;
	}
	ports->link_listen_fd = fd;
	snprintf(ports->link_path, sizeof(ports->link_path), "%s", path);
	return 0;
}

void ports_link_serve(struct ports *ports)
{
	int peer = accept4(ports->link_listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {.bytes = {0}};
	struct iovec iov = {.iov_base = (char[]){'L'}, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	if (peer < 0)
		return;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &ports->link_fd, sizeof(int));
	if (sendmsg(peer, &msg, MSG_NOSIGNAL) < 0)
		log_line(CONFIG_LOG_WARNING, "the link's memory was not handed over: %s", strerror(errno));
	close(peer);
}

/* Receives the memory's descriptor from the engine that has made the link. */
static int link_fetch(const char *path, int *out)
{
	struct sockaddr_un un;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct timeval patience = {.tv_sec = 5};
	struct cmsghdr *c;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = fd < 0 ? -errno : unix_address(path, &un);

	if (rc == 0 && (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0 ||
			       connect(fd, (struct sockaddr *)&un, sizeof(un)) != 0 ||
			       recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) <= 0))
		rc = -errno;
	if (rc == 0) {
		c = CMSG_FIRSTHDR(&msg);
		if (c == NULL || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
			rc = -EPROTO;
		else
			memcpy(out, CMSG_DATA(c), sizeof(int));
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

static int link_device_open(
	struct ports *ports, const struct config_device *d, struct device **out, struct device_error *err)
{
	struct link_config link = {
		.slots = (uint32_t)d->frames,
		.mtu = d->mtu != 0 ? (uint32_t)d->mtu : LINK_MTU_DEFAULT,
		.max_tso_bytes = d->offload ? TSO_BYTES_MAX : 0,
		.mac_a = {0x02, 'f', 't', 'o', 'e', 0x0a},
		.mac_b = {0x02, 'f', 't', 'o', 'e', 0x0b},
	};
	int fd = (int)d->link_fd;
	int rc;

	if (d->link_fd != CONFIG_AUTO)
		return link_attach(fd, out, err);
	if (d->link_create) {
		if (ports->link_listen_fd >= 0) {
			snprintf(err->text, sizeof(err->text), "only one link device can have 'create'");
			return -EINVAL;
		}
		rc = link_create(&link, &ports->link_fd, out, err);
		if (rc != 0)
			return rc;
		rc = link_serve_open(ports, d->link_path);
		if (rc != 0) {
			snprintf(err->text, sizeof(err->text), "cannot listen at %s: %s", d->link_path,
				strerror(-rc));
			(*out)->ops->close(*out);
		}
		return rc;
	}
	rc = link_fetch(d->link_path, &fd);
	if (rc != 0) {
		snprintf(err->text, sizeof(err->text), "nobody hands a link over at %s: %s", d->link_path,
			strerror(-rc));
		return rc;
	}
	rc = link_attach(fd, out, err);
	close(fd);
	return rc;
}

static int device_open(struct ports *ports, const struct config *config, unsigned index, struct device **out,
	struct device_error *err)
{
	const struct config_device *d = &config->device[index];

	switch (d->kind) {
	case CONFIG_TAP: {
		struct tap_config tap = {
			.name = d->name,
			.netns = d->netns[0] != '\0' ? d->netns : NULL,
			.peer_addr = d->peer[0] != '\0' ? d->peer : NULL,
			.mtu = (uint32_t)d->mtu,
			.offload = d->offload,
		};

		memcpy(tap.mac, d->mac, sizeof(tap.mac));
		return tap_open(&tap, out, err);
	}
	case CONFIG_AFXDP: {
		struct afxdp_config xdp = {
			.interface = d->name,
			.queue = (uint32_t)d->queue,
			.frames = (uint32_t)d->frames,
			.force_generic = d->generic,
			.zero_copy = d->zero_copy,
			.trust_checksum = d->trust_checksum,
		};

		for (unsigned i = 0; i < config->address_count && !d->exclusive; i++)
			if (config->address[i].device == index)
				xdp.addr[xdp.addr_count++] = config->address[i].addr;
		return afxdp_open(&xdp, out, err);
	}
	case CONFIG_DPDK: {
		struct dpdk_config dpdk = {
			.eal_args = d->eal_args,
			.device = d->name,
			.queue = (uint32_t)d->queue,
			.mtu = (uint32_t)d->mtu,
		};

		return dpdk_open(&dpdk, out, err);
	}
	case CONFIG_LINK:
		return link_device_open(ports, d, out, err);
	}
	return -EINVAL;
}

/* Puts the capture and the fault injector around a device; it is closed when that fails. */
static int device_wrap(const struct config_device *d, struct device **dev, struct device_error *err)
{
	struct device *outer;
	int rc = 0;

	if (d->faulty) {
		struct fault_config fault = {
			.seed = d->seed,
			.drop_ppm = (uint32_t)d->drop_ppm,
			.duplicate_ppm = (uint32_t)d->duplicate_ppm,
			.reorder_ppm = (uint32_t)d->reorder_ppm,
			.corrupt_ppm = (uint32_t)d->corrupt_ppm,
			.reorder_depth = (uint32_t)d->reorder_depth,
		};

		rc = fault_open(&fault, *dev, &outer, err);
		if (rc == 0)
			*dev = outer;
	}
	if (rc == 0 && d->pcap[0] != '\0') {
		rc = pcap_open_tee(d->pcap, *dev, &outer, err);
		if (rc == 0)
			*dev = outer;
	}
	if (rc != 0)
		(*dev)->ops->close(*dev);
	return rc;
}

/* What a person can do about an errno of a device. */
static const char *device_advice(const struct config_device *d, int rc)
{
	if (rc != -EPERM && rc != -EACCES)
		return "";
	if (d->kind == CONFIG_TAP)
		return d->netns[0] != '\0' ? "; it takes root, or CAP_NET_ADMIN and CAP_SYS_ADMIN (to enter "
					     "the namespace)"
					   : "; it takes root, or CAP_NET_ADMIN";
	if (d->kind == CONFIG_AFXDP)
		return "; it takes root, or CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF";
	return ""; /* DPDK's own text says what it wants */
}

/* A device's reason without its name in front, which the line has already. */
static const char *reason_text(const struct config_device *d, const char *text)
{
	size_t len = strlen(d->name);

	return strncmp(text, d->name, len) == 0 && strncmp(text + len, ": ", 2) == 0 ? text + len + 2 : text;
}

static int loop_open(struct ports *ports, struct config_error *err)
{
	struct link_config link = {
		.slots = 1024,
		.mtu = LOOP_MTU,
		.max_tso_bytes = 0,
		.mac_a = {0x02, 'f', 't', 'o', 'e', 0x01},
		.mac_b = {0x02, 'f', 't', 'o', 'e', 0x01},
	};
	struct device_error reason = {""};
	int rc = link_open_loop(&link, &ports->device[ports->count], &reason);

	if (rc != 0) {
		snprintf(err->text, sizeof(err->text), "cannot open the loop: %s", reason.text);
		return rc;
	}
	ports->loop = ports->count++;
	return 0;
}

int ports_open(struct ports *ports, const struct config *config, struct config_error *err)
{
	int rc = 0;

	memset(ports, 0, sizeof(*ports));
	ports->loop = CONTROL_PORT_NONE;
	ports->link_listen_fd = -1;
	ports->link_fd = -1;
	for (unsigned i = 0; i < config->device_count && rc == 0; i++) {
		const struct config_device *d = &config->device[i];
		struct device *dev = NULL;
		struct device_error reason = {""};

		rc = device_open(ports, config, i, &dev, &reason);
		if (rc == 0 && reason.text[0] != '\0')
			log_line(CONFIG_LOG_WARNING, "device %s: %s", d->name, reason_text(d, reason.text));
		if (rc == 0)
			rc = device_wrap(d, &dev, &reason);
		if (rc == 0) {
			ports->device[ports->count++] = dev;
			continue;
		}
		snprintf(err->text, sizeof(err->text), "device %s: %.255s%s", d->name,
			reason.text[0] != '\0' ? reason_text(d, reason.text) : strerror(-rc),
			strstr(reason.text, "CAP_") != NULL ? "" : device_advice(d, rc));
	}
	if (rc == 0 && config->loop)
		rc = loop_open(ports, err);
	if (rc != 0)
		ports_close(ports);
	return rc;
}

void ports_close(struct ports *ports)
{
	for (unsigned i = 0; i < ports->count; i++)
		ports->device[i]->ops->close(ports->device[i]);
	ports->count = 0;
	if (ports->link_listen_fd >= 0) {
		close(ports->link_listen_fd);
		unlink(ports->link_path);
		ports->link_listen_fd = -1;
	}
	if (ports->link_fd >= 0) {
		close(ports->link_fd);
		ports->link_fd = -1;
	}
}
