//! What stands below the options in `--help`: how each command is used.

pub(super) const VCYCLED: &str = "Examples:
  vcycled demo                  see it work, without any cloud
  vcycled check                 is the configuration good?
  vcycled status                what is there, and what happens to it?
  vcycled explain example.org   why is nothing (more) created there?
Manual pages: vcycled(8), vcycle.conf(5)";

pub(super) const RUN: &str = "Examples:
  systemctl start vcycled       run it as the service that it is
  systemctl reload vcycled      begin a cycle now (SIGHUP does that)
  journalctl -fu vcycled        what it says
  VCYCLE_LOG=debug vcycled run --state-dir /tmp/vcycle
                                by hand, somewhere else, saying more

The configuration is read again in each cycle: nothing has to be restarted
after a change. SIGTERM ends it within seconds.";

pub(super) const CHECK: &str = "Examples:
  vcycled check                 every problem, with file and line
  vcycled check --print         what all files come to, secrets hidden
  vcycled check --fetch         are the vacuum pipes there, and in order?
  vcycled check --config ./new.conf --config-dir /none
                                before it is put in its place
  vcycled check && systemctl reload vcycled

Exit codes: 0 good, 69 a pipe cannot be had, 78 there are errors";

pub(super) const PLAN: &str = "Examples:
  vcycled plan                  all spaces
  vcycled plan example.org --dump-snapshot now.json
  vcycled plan --snapshot now.json --now 1795280400 --seed 1";

pub(super) const STATUS: &str = "Examples:
  vcycled status                everything, once
  vcycled status --watch        again every two seconds, until Ctrl-C
  vcycled status --json | jq '.spaces[].report.machinetypes'
  vcycled status vcycle-atlas-k3j9x0q2ab";

pub(super) const HEALTH: &str = "Examples:
  vcycled health                all spaces, with the usual limits
  vcycled health --space example.org --warning 600 --critical 3600

Exit codes: 0 ok, 1 warning, 2 critical, 3 unknown";

pub(super) const EVENTS: &str = "Examples:
  vcycled events --since 2h     of the last two hours
  vcycled events --follow       as they come
  vcycled events --machine vcycle-atlas-k3j9x0q2ab
  vcycled events --json --since 1d | jq -s 'map(select(.abort)) | length'";

pub(super) const EXPLAIN: &str = "Examples:
  vcycled explain example.org   all machinetypes of the space
  vcycled explain example.org atlas
                                one of them
  vcycled explain --snapshot now.json example.org
                                of what plan --dump-snapshot has written";

pub(super) const SHUTDOWN: &str = "Examples:
  vcycled shutdown --in 7200    everything empty in two hours
  vcycled shutdown --at 2026-11-21T18:00:00Z example.org
  vcycled shutdown --cancel     make machines again";

pub(super) const APEL_SYNC: &str = "Examples:
  vcycled apel-sync             this month, and those before it
                                that have new records
  vcycled apel-sync 202611      November 2026
  17 4 * * *  root  /usr/sbin/vcycled apel-sync >/dev/null
                                once a day, as a line of /etc/cron.d/vcycle

The count goes to standard output, and to apel-outgoing in the state
directory when a space has a gocdb_sitename.";

pub(super) const APEL: &str = "Examples:
  vcycled apel list --waiting   what has not been sent yet
  vcycled apel show vcycle-atlas-k3j9x0q2ab
  vcycled apel resend --since 7d --space example.org
                                what would be sent again?";

pub(super) const APEL_LIST: &str = "Examples:
  vcycled apel list --waiting   what has not been sent yet
  vcycled apel list --since 7d --space example.org
  vcycled apel list --json | jq '.records | map(.wall_seconds) | add'";

pub(super) const APEL_SHOW: &str = "Examples:
  vcycled apel show vcycle-atlas-k3j9x0q2ab
  vcycled apel show 20261121/18000012345678";

pub(super) const APEL_RESEND: &str = "Examples:
  vcycled apel resend --since 7d --space example.org
                                what would be sent again?
  vcycled apel resend --apply 20261121/18000012345678
                                send it again";

pub(super) const MIGRATE: &str = "Examples:
  vcycled migrate               what is there, and what would be done?
  vcycled migrate --apply       do it; the old daemon must have been stopped";

pub(super) const LOG: &str = "Examples:
  vcycled log debug             everything
  vcycled log --space example.org debug
                                the cycles of one space
  vcycled log --space example.org default";

pub(super) const DEMO: &str = "Examples:
  vcycled demo                  a minute, sixty times as fast as real clouds
  vcycled demo --faults         on clouds on a bad day
  vcycled demo --keep --dir /tmp/demo
                                until Ctrl-C; the same line goes on with it";

pub(super) const COMPLETIONS: &str = "Examples:
  vcycled completions bash >/etc/bash_completion.d/vcycled
  vcycled completions fish >~/.config/fish/completions/vcycled.fish
  vcycled completions zsh >/usr/local/share/zsh/site-functions/_vcycled

The packages bring them along.";
