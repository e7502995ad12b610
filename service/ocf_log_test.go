package service

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"mainstay/fleet"
)

// silentAgent gives no reason (ocf_exit_reason): as Debian's rabbitmq-server, it logs what
// its command said and that it did not expect that, and ends with 1.
const silentAgent = `#!/bin/sh
: ${OCF_FUNCTIONS_DIR=/usr/lib/ocf/lib/heartbeat}
. ${OCF_FUNCTIONS_DIR}/ocf-shellfuncs
case $1 in
meta-data) cat <<END
<?xml version="1.0"?>
<resource-agent name="silent"><parameters>
<parameter name="tool" required="1"><content type="string"/></parameter>
<parameter name="tool_passwd"><content type="string"/></parameter>
</parameters><actions>
<action name="start" timeout="20s"/><action name="stop" timeout="20s"/><action name="monitor" timeout="20s"/>
</actions></resource-agent>
END
exit 0;;
esac
ocf_log info "asks as $OCF_RESKEY_tool_passwd"
ocf_run -q -info "$OCF_RESKEY_tool" status
rc=$?
case $rc in
0) exit 0 ;;
69) exit 7 ;;
9) ocf_log warn "waits for the tool"; exec sleep 1000 ;;
esac
ocf_log err "Unexpected return from $OCF_RESKEY_tool status: $rc"
exit 1
`

// TestOCFSaysWhy: an agent that ends with a bare 1 has said why in its log, and so does
// the status.
func TestOCFSaysWhy(t *testing.T) {
	t.Parallel()
	debian(t, "heartbeat:Dummy")
	env := ocfEnv(t, map[string]string{"silent": silentAgent})
	dir := t.TempDir()
	tool, secret := filepath.Join(dir, "tool"), filepath.Join(dir, "secret")
	put(t, secret, "hunter2")
	c, err := Open(fleet.Service{Name: "mq", Kind: "ocf", Mode: fleet.ActivePassive, Params: map[string]string{"agent": "test:silent", "tool": tool, "tool_passwd_file": secret, "op_monitor": "5s"}}, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	says := func(script string) (fleet.ServiceState, error) {
		t.Helper()
		if err := writeProgram(tool, "#!/bin/sh\n"+script); err != nil {
			t.Fatal(err)
		}
		return c.State(t.Context())
	}
	st, err := says("echo 'Error: operation status timed out, user hunter2'; exit 75")
	want := "ocf:test:silent monitor failed (1): Unexpected return from " + tool + " status: 75 (before that: Error: operation status timed out, user [hidden])"
	if err != nil || st.Phase != fleet.Running || !st.Stuck || st.Why != want {
		t.Errorf("a failure: %+v, %v; want %q", st, err, want)
	}
	if ready, why, err := c.Ready(t.Context()); ready || err != nil || why != want {
		t.Errorf("not ready: %v %q %v", ready, why, err)
	}
	// Of a killed one it is known what it did.
	st, err = says("exit 9")
	if !errors.Is(err, ErrUnknown) || st.Phase != fleet.Unknown || !strings.HasSuffix(st.Why, "its last word was: waits for the tool") {
		t.Errorf("killed: %+v, %v", st, err)
	}
	// What ran and runs no more, in the words of what was asked.
	if st, err = says("echo 'Error: the node is not running'; exit 69"); err != nil || st.Phase != fleet.Failed || !strings.Contains(st.Why, "Error: the node is not running") {
		t.Errorf("stopped: %+v, %v", st, err)
	}
	if st, err = says("exit 0"); err != nil || st.Phase != fleet.Running || st.Why != "" {
		t.Errorf("well: %+v, %v", st, err)
	}
	if left, _ := filepath.Glob(filepath.Join(env.Shims, "log.*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
