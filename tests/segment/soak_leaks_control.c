/* SPDX-License-Identifier: BSD-3-Clause */
/* What the control plane must have given back when everything has ended; see soak.h. */
#include "control/state.h"
#include "tests/segment/soak.h"

int leaks_control(struct control *ctl, char *text, size_t size)
{
	uint64_t used = 0;
	unsigned ports = 0, draining = 0;

	for (uint32_t i = 0; i < ctl->apps_high; i++) {
		if (ctl->apps[i].state == APP_FREE)
			continue;
		used += ctl->apps[i].buffers.used_bytes;
		draining += ctl->apps[i].state != APP_ALIVE;
	}
	for (uint32_t i = 0; i < 65536; i++)
		ports += ctl->port_uses[i];
	if (!ctl->conns_open && !ctl->handshakes_used && !ctl->half_open && !ctl->time_wait_count && !used &&
		!ports && !draining)
		return 0;
	snprintf(text, size,
		"%u connections, %u handshakes (%u passive), %u in TIME-WAIT, %llu bytes of buffers, %u port "
		"uses, "
		"%u applications going",
		ctl->conns_open, ctl->handshakes_used, ctl->half_open, ctl->time_wait_count,
		(unsigned long long)used, ports, draining);
	return -1;
}
