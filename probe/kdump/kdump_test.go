package kdump

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

func TestIs(t *testing.T) {
	for text, want := range map[string]bool{
		"\x40\x2a\x30\x1b\x01\x00\x00\x00":     true,
		"\x1b\x30\x2a\x40\x00\x00\x00\x01":     true,
		"\x40\x2a\x30\x1b\x02\x00\x00\x00":     false,
		"\x40\x2a\x30\x1b":                     false,
		"\x40\x2a\x30\x1b\x01\x00\x00\x00\x00": false,
		"\x00\x00\x00\x00\x01\x00\x00\x00":     false,
	} {
		if Is([]byte(text)) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}

// sender is where Debian has fence_kdump_send.
const sender = "/usr/libexec/fence-agents/fence_kdump_send"

// TestRealSender: what Debian's own program sends is understood, and tells whose it is; noise is not.
func TestRealSender(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(free.LocalAddr().String())
	free.Close()
	heard, ended := make(chan netip.Addr, 1), make(chan error, 1)
	go func() { ended <- Listen(ctx, at.String(), func(a netip.Addr) { heard <- a }) }()
	noise, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer noise.Close()
	for deadline := time.After(time.Minute); ; {
		noise.Write([]byte("no such message"))
		cmd := exec.Command(sender, "-p", strconv.Itoa(int(at.Port())), "-c", "1", "-f", "ipv4", at.Addr().String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		select {
		case from := <-heard:
			if from != at.Addr() {
				t.Errorf("it is said to be of %v", from)
			}
			cancel()
			if err := <-ended; err == nil {
				t.Error("it ended without a word")
			}
			return
		case err := <-ended:
			t.Fatal(err)
		case <-deadline:
			t.Fatal("nothing was heard")
		case <-time.After(100 * time.Millisecond): // it may not have listened yet
		}
	}
}
