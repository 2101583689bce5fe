/* SPDX-License-Identifier: BSD-3-Clause */
/* What the control plane may have left when all is over (its names and the data path's collide: a file
 * apart). */
#include "control/state.h"
#include "fuzz.h"

bool control_books_closed(const struct control *ctl)
{
	for (uint32_t i = 0; i < ctl->apps_max; i++)
		if (ctl->apps[i].state != APP_FREE)
			return false;
	for (uint32_t i = 0; i < ctl->contexts_max; i++)
		if (ctl->contexts[i].used)
			return false;
	return ctl->conns_open == 0 && ctl->handshakes_used == 0 && ctl->half_open == 0 &&
	       ctl->endpoints_closing == INDEX_NONE;
}
