/* SPDX-License-Identifier: BSD-3-Clause */
/* Opens the configured devices and makes them ports of the data path. Called by engine.c at start and end. */
#ifndef DAEMON_PORTS_H
#define DAEMON_PORTS_H

#include "daemon/config.h"

struct ports {
	struct device *device[DATAPATH_PORTS_MAX]; /* in the order of the configuration, then the loop */
	unsigned count;
	unsigned loop; /* index, or CONTROL_PORT_NONE */
	/* A link device with `create`: the memory's descriptor goes to who connects here. */
	int link_listen_fd, link_fd;
	char link_path[108];
};

/* 0, or a negative errno and a sentence; what was opened is closed again. */
int ports_open(struct ports *ports, const struct config *config, struct config_error *err);
/* The link's listening socket is readable: hands the descriptor over. */
void ports_link_serve(struct ports *ports);
void ports_close(struct ports *ports);

#endif
