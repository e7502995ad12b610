package fence

import (
	"context"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/types"

	"mainstay/fence/falsebmc"
	"mainstay/fleet"
)

// falseIPMI is a BMC of the library's reference server that can misbehave. What it
// says is sealed, so a datagram is dropped or delayed on its way, and what it says is
// falsified where it is made.
type falseIPMI struct {
	net.PacketConn
	power  *lamp
	faults *falsebmc.Faults
	uuid   [16]byte
	life   context.Context
	late   sync.WaitGroup
	mute   atomic.Bool // the answer to a deed is lost
}

// WriteTo is an answer's way back.
func (f *falseIPMI) WriteTo(b []byte, to net.Addr) (int, error) {
	fault := f.faults.Get()
	if fault.Hang || f.mute.Swap(false) {
		return len(b), nil
	}
	if fault.Slow > 0 {
		select {
		case <-time.After(fault.Slow):
		case <-f.life.Done():
			return len(b), nil
		}
	}
	return f.PacketConn.WriteTo(b, to)
}

func (f *falseIPMI) status(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	answer := chassis.GetChassisStatusResponse{PowerIsOn: f.power.on.Load() && !f.faults.Get().Lies}
	return answer.Pack(), types.CodeOK, nil
}

func (f *falseIPMI) control(_ context.Context, _ *handlers.HandlerContext, ask []byte) ([]byte, types.CompletionCode, error) {
	fault, want := f.faults.Get(), false
	switch chassis.ChassisControl(ask[0] & 0xf) {
	case chassis.ChassisControlPowerUp:
		want = true
	case chassis.ChassisControlPowerDown:
	default: // a cycle or a reset proves nothing, and must never be asked for
		return nil, types.CodeParameterOutOfRange, nil
	}
	switch {
	case fault.Lies:
	case fault.Late > 0 && !want:
		f.late.Go(func() {
			select {
			case <-time.After(fault.Late):
				f.power.on.Store(false)
			case <-f.life.Done():
			}
		})
	case f.power.on.Swap(want) == want && !fault.Lost:
		return nil, types.CodeNotSupported, nil // strict, as some real ones are
	}
	f.mute.Store(fault.Lost)
	return nil, types.CodeOK, nil
}

func (f *falseIPMI) guid(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
	id := f.uuid
	if other, ok := parseUUID(f.faults.Get().UUID); ok {
		id = reversed(other)
	}
	return id[:], types.CodeOK, nil
}

func ipmiDevice(t *testing.T) device {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	id, _ := parseUUID(uuidC2)
	life, end := context.WithCancel(t.Context())
	f := &falseIPMI{PacketConn: conn, power: &lamp{}, faults: &falsebmc.Faults{}, uuid: reversed(id), life: life}
	f.power.on.Store(true)
	b := bmc.New(bmc.DeviceInfo{}, f.uuid, mock.New())
	user, err := b.Users.Add(2, "mainstay")
	if err == nil {
		err = b.Users.Update(user.ID, func(u *bmc.User) error {
			u.SetPassword([]byte(rightPassword))
			u.Enabled = true
			u.ChannelAccess[1] = bmc.UserChannelAccess{Enabled: true, MaxPrivilege: bmc.PrivilegeLevel(types.PrivilegeLevelOperator)}
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	reg := handlers.NewRegistry()
	// After a password change real ones end the sessions of the old.
	reg.Use(func(next handlers.Handler) handlers.Handler {
		return handlers.HandlerFunc(func(ctx context.Context, h *handlers.HandlerContext, ask []byte) ([]byte, types.CompletionCode, error) {
			if f.faults.Get().Locked {
				return nil, types.CodeInsufficientPrivilege, nil
			}
			return next.Handle(ctx, h, ask)
		})
	})
	handlers.RegisterAllHandlers(reg)
	reg.RegisterFunc(types.CommandGetChassisStatus, f.status)
	reg.RegisterFunc(types.CommandChassisControl, f.control)
	reg.RegisterFunc(types.CommandGetSystemGUID, f.guid)
	s := server.NewServer(b, f, server.WithHandlerRegistry(reg), server.WithV15Disabled())
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(life) }()
	var once sync.Once
	stop := func() { once.Do(func() { end(); _ = s.Close(); conn.Close(); f.late.Wait(); <-served }) }
	t.Cleanup(stop)
	return device{
		params: map[string]string{"address": conn.LocalAddr().String(), "user": "mainstay", "password_file": secretFile(t, rightPassword+"\n")},
		faults: f.faults, power: f.power, stop: stop,
	}
}

// TestIPMISim drives Debian's ipmi_sim, a BMC that others wrote.
func TestIPMISim(t *testing.T) {
	sim, err := exec.LookPath("ipmi_sim")
	if err != nil {
		t.Fatal(err, "; package openipmi, which .ci/run installs")
	}
	dir := t.TempDir()
	power := filepath.Join(dir, "power")
	port := freeUDP(t)
	id, _ := parseUUID(uuidC2)
	guid := id
	files := map[string]string{
		"power":      "1\n",
		"chassis.sh": "#!/bin/sh\ncase \"$2 $3\" in 'get power') echo power:$(cat " + power + ");; 'set power') echo $4 > " + power + ";; esac\n",
		"cmds.emu":   "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n",
		"lan.conf": "name \"bmc1\"\nset_working_mc 0x20\nstartlan 1\naddr 127.0.0.1 " + strconv.Itoa(port) + "\npriv_limit admin\n" +
			"allowed_auths_callback none md2 md5 straight\nallowed_auths_user none md2 md5 straight\nallowed_auths_operator none md2 md5 straight\nallowed_auths_admin none md2 md5 straight\n" +
			"guid " + hex.EncodeToString(guid[:]) + "\nendlan\nchassis_control \"" + dir + "/chassis.sh node1\"\n" +
			"user 2 true \"mainstay\" \"" + rightPassword + "\" admin 10 none md2 md5 straight\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, sim, "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "cmds.emu"), "-s", dir, "-n")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()

	open := func(with ...string) Driver {
		params := map[string]string{"address": net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), "user": "mainstay",
			"password_file": secretFile(t, rightPassword), "cipher": "3", "deadline": "2s"}
		for i := 0; i < len(with); i += 2 {
			params[with[i]] = with[i+1]
		}
		d, err := Open(fleet.Fence{Driver: "ipmi", Params: params})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	}
	d := open()
	for { // until it listens
		state, err := d.State(ctx)
		if err == nil {
			if state != On {
				t.Fatalf("state %q", state)
			}
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%v; ipmi_sim said: %s", err, out.String())
		}
	}
	target := Target{Host: "c2", Boot: "b1", UUID: uuidC2, By: "c1"}
	proof, err := Prove(ctx, d, target)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Confirm(ctx, d, target, proof); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(power); strings.TrimSpace(string(text)) != "0" {
		t.Errorf("its power is %q", text)
	}
	if err := PowerOn(ctx, d, target); err != nil {
		t.Error(err)
	}
	if state, err := d.State(ctx); err != nil || state != On {
		t.Errorf("state %q, %v", state, err)
	}
	if _, err := open("password_file", secretFile(t, wrongPassword)).State(ctx); OutcomeOf(err) != fleet.Refused {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := open("cipher", "17").State(ctx); OutcomeOf(err) != fleet.Refused {
		t.Errorf("a suite that it does not know: %v", err)
	}
}

func freeUDP(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}
