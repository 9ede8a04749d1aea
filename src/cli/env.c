/* Every environment variable that imp reads:
 *   IMP_CONFIG        imp.conf to read when there is no --config
 *   HOME, XDG_CONFIG_HOME, XDG_CACHE_HOME, XDG_STATE_HOME   where configuration, downloads and history live
 *   HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE   the hub that `imp pull` asks, and its cache
 *   NO_COLOR, TERM    whether a terminal gets colours */
#include <stdlib.h>

#include "cli/cli.h"

const char *cli_env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}
