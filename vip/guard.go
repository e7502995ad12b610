package vip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"mainstay/fleet"
)

// guard is the pair of nftables tables that keeps managed addresses silent:
//
//	table inet mainstay              table arp mainstay
//	  set managed4, managed6           set managed4
//	  set speaking4, speaking6         set speaking4      (elements time out)
//	  chain input, output              chain input, output
//
// It is not safe for concurrent use.
//
// A transaction that renews is "delete; add" and not "add; delete; add": the
// kernel refuses to delete an element that has timed out, and refuses the whole
// transaction with it. So a renewal that was frozen on its way (HOLES 22) cannot
// open a guard that has shut meanwhile.
//
// A renewal that succeeds says nothing of the chains and rules: somebody may
// have flushed those and left the sets. Every transaction in the namespace raises
// the rule set's generation by one, so after each of ours the generation is read;
// when it is not the one expected somebody else changed something, and the guard
// looks at its tables before it is trusted again.
type guard struct {
	ns         int
	now        func() fleet.Moment
	nft        *nftables.Conn
	nl         *netlink.Conn // asks for the generation and for tables, which nftables cannot
	generation uint32
	sent       fleet.Moment // when the kernel had carried out the last change of elements
	doubt      bool         // somebody else has changed the rule set since the last look
	built      []uint64     // the handles of all our tables and rules; nil: not built
	managed    []netip.Addr // what the sets of managed addresses shall hold, in order; nil: whatever they do
}

const tableName = "mainstay"

// The parts of the guard. They are never changed: nftables reads names and
// types from them. The IDs tell the sets apart within one transaction.
var (
	inetTable = &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	arpTable  = &nftables.Table{Name: tableName, Family: nftables.TableFamilyARP}

	tables = []*nftables.Table{inetTable, arpTable}

	managed4     = &nftables.Set{Table: inetTable, ID: 1, Name: "managed4", KeyType: nftables.TypeIPAddr}
	managed6     = &nftables.Set{Table: inetTable, ID: 2, Name: "managed6", KeyType: nftables.TypeIP6Addr}
	speaking4    = &nftables.Set{Table: inetTable, ID: 3, Name: "speaking4", KeyType: nftables.TypeIPAddr, HasTimeout: true}
	speaking6    = &nftables.Set{Table: inetTable, ID: 4, Name: "speaking6", KeyType: nftables.TypeIP6Addr, HasTimeout: true}
	arpManaged4  = &nftables.Set{Table: arpTable, ID: 5, Name: "managed4", KeyType: nftables.TypeIPAddr}
	arpSpeaking4 = &nftables.Set{Table: arpTable, ID: 6, Name: "speaking4", KeyType: nftables.TypeIPAddr, HasTimeout: true}

	managedSets  = []*nftables.Set{managed4, managed6, arpManaged4}
	speakingSets = []*nftables.Set{speaking4, speaking6, arpSpeaking4}

	inetInput  = chain(inetTable, "input", nftables.ChainHookInput)
	inetOutput = chain(inetTable, "output", nftables.ChainHookOutput)
	arpInput   = chain(arpTable, "input", nftables.ChainHookRef(0))  // NF_ARP_IN
	arpOutput  = chain(arpTable, "output", nftables.ChainHookRef(1)) // NF_ARP_OUT
	chains     = []*nftables.Chain{inetInput, inetOutput, arpInput, arpOutput}
)

func chain(t *nftables.Table, name string, hook *nftables.ChainHook) *nftables.Chain {
	return &nftables.Chain{Table: t, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw}
}

// rules says what is dropped. What is not here matters as much: packets *from* a
// managed address that come in, ARP and neighbour advertisements of it included,
// are the voice of whoever holds it now, and packets *to* it that go out are our
// own clients'. Packets that are only passed on (routed, bridged) are nobody's
// business here: they never meet the hooks input and output.
func rules() []*nftables.Rule {
	const (
		network   = expr.PayloadBaseNetworkHeader
		transport = expr.PayloadBaseTransportHeader
	)
	ipv4 := match(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, unix.NFPROTO_IPV4)
	ipv6 := match(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, unix.NFPROTO_IPV6)
	icmp6 := match(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, unix.IPPROTO_ICMPV6)
	icmpType := func(t byte) []expr.Any { return match(load(transport, 0, 1), t) }
	return []*nftables.Rule{
		drop(inetInput, "to an address that may not speak", ipv4, silent(load(network, 16, 4), managed4, speaking4)),
		drop(inetInput, "to an address that may not speak", ipv6, silent(load(network, 24, 16), managed6, speaking6)),
		drop(inetInput, "who has an address that may not speak", ipv6, icmp6, icmpType(ndSolicit), silent(load(transport, 8, 16), managed6, speaking6)),
		drop(inetOutput, "from an address that may not speak", ipv4, silent(load(network, 12, 4), managed4, speaking4)),
		drop(inetOutput, "from an address that may not speak", ipv6, silent(load(network, 8, 16), managed6, speaking6)),
		drop(inetOutput, "we have an address that may not speak", ipv6, icmp6, icmpType(ndAdvert), silent(load(transport, 8, 16), managed6, speaking6)),
		// An announcement has the address as its sender and as its target: it must
		// come in, or this host would go on talking to the old holder.
		drop(arpInput, "who has an address that may not speak", silent(load(network, arpTarget, 4), arpManaged4, arpSpeaking4),
			[]expr.Any{load(network, arpSender, 4), lookup(arpManaged4, true)}),
		drop(arpOutput, "we have an address that may not speak", silent(load(network, arpSender, 4), arpManaged4, arpSpeaking4)),
	}
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}
}

func match(load expr.Any, value byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}}}
}

func lookup(set *nftables.Set, invert bool) expr.Any {
	return &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: invert}
}

// silent matches what is managed but may not speak.
func silent(load expr.Any, managed, speaking *nftables.Set) []expr.Any {
	return []expr.Any{load, lookup(managed, false), lookup(speaking, true)}
}

func drop(c *nftables.Chain, comment string, conditions ...[]expr.Any) *nftables.Rule {
	exprs := slices.Concat(conditions...)
	exprs = append(exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	return &nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, comment)}
}

func (g *guard) dial() error {
	if g.nft != nil {
		return nil
	}
	nft, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(g.ns))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: g.ns})
	if err != nil {
		nft.CloseLasting()
		return fmt.Errorf("open netfilter netlink: %w", err)
	}
	g.nft, g.nl = nft, nl
	return nil
}

func (g *guard) close() {
	if g.nft != nil {
		g.nft.CloseLasting()
		g.nl.Close()
		g.nft, g.nl = nil, nil
	}
}

// build makes the guard, or takes over the one that it finds: chains and rules
// are replaced within one transaction, the elements of the sets stay. A nil
// managed leaves the managed addresses as they are. What speaks is opened for d.
// Tables of another shape are replaced whole; then nothing speaks but speaking.
func (g *guard) build(managed, speaking []netip.Addr, d time.Duration) error {
	g.built = nil
	err := g.construct(false, managed, speaking, d)
	if err != nil && !errors.Is(err, unix.EPERM) {
		err = g.construct(true, managed, speaking, d)
	}
	if err != nil {
		return fmt.Errorf("build the guard: %w", err)
	}
	g.built, err = g.look()
	if err != nil {
		g.built = nil
		return fmt.Errorf("look at the guard just built: %w", err)
	}
	g.doubt = false
	return nil
}

func (g *guard) construct(anew bool, managed, speaking []netip.Addr, d time.Duration) error {
	if err := g.dial(); err != nil {
		return err
	}
	for _, t := range tables {
		g.nft.AddTable(t)
		if anew {
			g.nft.DelTable(t)
			g.nft.AddTable(t)
		}
	}
	for _, set := range slices.Concat(managedSets, speakingSets) {
		if err := g.nft.AddSet(set, nil); err != nil {
			return g.spoilt(err)
		}
	}
	for _, c := range chains {
		g.nft.AddChain(c)
		g.nft.FlushChain(c)
	}
	for _, r := range rules() {
		g.nft.AddRule(r)
	}
	if managed != nil {
		if err := g.queueManaged(managed); err != nil {
			return err
		}
	}
	for _, step := range []elementwise{g.nft.SetAddElements, g.nft.SetDeleteElements, g.nft.SetAddElements} {
		if err := g.queue(step, speakingSets, speaking, d); err != nil {
			return err
		}
	}
	return g.commit()
}

// manage declares which addresses, in order, are shut unless they speak.
func (g *guard) manage(addrs []netip.Addr) error {
	if err := g.queueManaged(addrs); err != nil {
		return err
	}
	return g.commit()
}

// A step adds elements, with a timeout, or deletes them, if that is 0.
type step time.Duration

const remove step = 0

// open lets addresses speak for d, whether or not they do already.
func (g *guard) open(addrs []netip.Addr, d time.Duration) error {
	return g.change(addrs, step(d), remove, step(d))
}

// renew lets addresses speak for d that do so already. If one does not the error
// is unix.ENOENT and nothing has changed.
func (g *guard) renew(addrs []netip.Addr, d time.Duration) error {
	return g.change(addrs, remove, step(d))
}

// shut silences addresses, whether or not they spoke.
func (g *guard) shut(addrs []netip.Addr) error {
	return g.change(addrs, step(time.Second), remove)
}

// change carries out steps on the elements of addresses, all or none. It happens
// at every beat, so it is one question and one answer: the kernel is told which
// generation we expect, and refuses (ERESTART) if somebody else has changed
// anything since. Only then is the guard looked at; if it does not stand nothing
// is changed.
func (g *guard) change(addrs []netip.Addr, steps ...step) error {
	for range tries {
		if err := g.sound(); err != nil {
			return err
		}
		err := g.transact(addrs, steps)
		if err == nil {
			g.generation = succ(g.generation)
			return nil
		}
		if !errors.Is(err, unix.ERESTART) {
			return g.spoilt(fmt.Errorf("change what may speak: %w", err))
		}
		g.doubt = true
		if err := g.expect(0); err != nil {
			return err
		}
	}
	return g.spoilt(errors.New("change what may speak: others change the rule set all the time"))
}

func (g *guard) transact(addrs []netip.Addr, steps []step) error {
	if err := g.dial(); err != nil {
		return err
	}
	const batchGenID = 1 // NFNL_BATCH_GENID
	expected, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: batchGenID, Data: binary.BigEndian.AppendUint32(nil, g.generation)}})
	if err != nil {
		return err
	}
	msgs := []netlink.Message{bracket(unix.NFNL_MSG_BATCH_BEGIN, expected)}
	for _, set := range speakingSets {
		members := of(set, addrs)
		if len(members) == 0 {
			continue
		}
		for _, s := range steps {
			kind := unix.NFT_MSG_NEWSETELEM
			if s == remove {
				kind = unix.NFT_MSG_DELSETELEM
			}
			body, err := elements(set, members, time.Duration(s))
			if err != nil {
				return err
			}
			msgs = append(msgs, netlink.Message{
				Header: netlink.Header{Type: nftMessage(kind), Flags: netlink.Request | netlink.Create},
				Data:   append([]byte{byte(set.Table.Family), unix.NFNETLINK_V0, 0, 0}, body...),
			})
		}
	}
	last := len(msgs) - 1
	msgs[last].Header.Flags |= netlink.Acknowledge // errors are answered without being asked for
	msgs, err = g.nl.SendMessages(append(msgs, bracket(unix.NFNL_MSG_BATCH_END, nil)))
	g.sent = g.now()
	if err != nil {
		return err
	}
	answers, err := g.nl.Receive()
	if err != nil {
		return err
	}
	if len(answers) != 1 || answers[0].Header.Sequence != msgs[last].Header.Sequence {
		return fmt.Errorf("%d answers, not the one expected", len(answers))
	}
	return nil
}

// bracket begins or ends a transaction.
func bracket(kind uint16, body []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
		Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, body...),
	}
}

func nftMessage(kind int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)
}

// elements encodes elements of a set, with a timeout unless that is 0.
func elements(set *nftables.Set, addrs []netip.Addr, d time.Duration) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.String(unix.NFTA_SET_ELEM_LIST_TABLE, set.Table.Name)
	e.String(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
	e.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		for _, a := range addrs {
			list.Nested(unix.NFTA_LIST_ELEM, func(element *netlink.AttributeEncoder) error {
				element.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
					key.Bytes(unix.NFTA_DATA_VALUE, a.AsSlice())
					return nil
				})
				if d > 0 {
					element.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(d.Milliseconds()))
				}
				return nil
			})
		}
		return nil
	})
	return e.Encode()
}

// succ is the generation after the next transaction, as the kernel counts.
func succ(generation uint32) uint32 { return max(1, generation+1) }

// speaking returns how long each address may still speak, as the sets have it.
// An IPv4 address speaks for the shorter of its two elements.
func (g *guard) speaking() (map[netip.Addr]time.Duration, error) {
	for _, t := range tables {
		if _, err := g.table(t); errors.Is(err, unix.ENOENT) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	var found [3]map[netip.Addr]time.Duration
	for i, set := range speakingSets {
		found[i] = map[netip.Addr]time.Duration{}
		elements, err := g.nft.GetSetElements(set)
		if err != nil {
			return nil, g.spoilt(fmt.Errorf("read set %s: %w", set.Name, err))
		}
		for _, e := range elements {
			if addr, ok := netip.AddrFromSlice(e.Key); ok {
				found[i][addr] = e.Expires
			}
		}
	}
	out := found[1]
	for addr, left := range found[0] {
		if arp, ok := found[2][addr]; ok {
			out[addr] = min(left, arp)
		}
	}
	return out, nil
}

func (g *guard) queueManaged(addrs []netip.Addr) error {
	if err := g.dial(); err != nil {
		return err
	}
	for _, set := range managedSets {
		g.nft.FlushSet(set)
	}
	g.managed = addrs
	return g.queue(g.nft.SetAddElements, managedSets, addrs, 0)
}

type elementwise func(*nftables.Set, []nftables.SetElement) error

// queue appends one step on the addresses to the transaction, for every set that
// they belong in.
func (g *guard) queue(step elementwise, sets []*nftables.Set, addrs []netip.Addr, d time.Duration) error {
	for _, set := range sets {
		var elements []nftables.SetElement
		for _, a := range of(set, addrs) {
			elements = append(elements, nftables.SetElement{Key: a.AsSlice(), Timeout: d})
		}
		if len(elements) == 0 {
			continue
		}
		if err := step(set, elements); err != nil {
			return g.spoilt(err)
		}
	}
	return nil
}

// of returns the addresses that belong in a set, by their family.
func of(set *nftables.Set, addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if uint32(a.BitLen()/8) == set.KeyType.Bytes {
			out = append(out, a)
		}
	}
	return out
}

// commit carries the transaction out, whole or not at all, and notes whether
// anybody else has made one since our last.
func (g *guard) commit() error {
	if err := g.nft.Flush(); err != nil {
		return g.spoilt(err)
	}
	return g.expect(succ(g.generation))
}

// expect reads the generation and doubts the guard if it is not the one expected.
func (g *guard) expect(generation uint32) error {
	msgs, err := g.ask(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, nil)
	if err != nil {
		return g.spoilt(fmt.Errorf("read the rule set's generation: %w", err))
	}
	now, ok := attribute32(msgs, unix.NFTA_GEN_ID)
	if !ok {
		return g.spoilt(errors.New("read the rule set's generation: none in the answer"))
	}
	if now != generation {
		g.doubt = true
	}
	g.generation = now
	return nil
}

// sound says whether the guard stands: nil, or what is wrong with it.
func (g *guard) sound() error {
	if g.built == nil {
		return errors.New("the guard is not built")
	}
	if !g.doubt {
		return nil
	}
	handles, err := g.look()
	if err != nil {
		return err
	}
	if !slices.Equal(handles, g.built) {
		return errors.New("somebody changed table mainstay")
	}
	for _, set := range managedSets {
		if g.managed == nil {
			break
		}
		elements, err := g.nft.GetSetElements(set)
		if err != nil {
			return g.spoilt(fmt.Errorf("read set %s: %w", set.Name, err))
		}
		want := of(set, g.managed)
		slices.SortFunc(elements, func(a, b nftables.SetElement) int { return bytes.Compare(a.Key, b.Key) })
		if !slices.EqualFunc(elements, want, func(e nftables.SetElement, a netip.Addr) bool { return bytes.Equal(e.Key, a.AsSlice()) }) {
			return fmt.Errorf("somebody changed set %s", set.Name)
		}
	}
	g.doubt = false
	return nil
}

// look returns the handles of our tables and rules. The kernel never gives a
// table's handle twice, nor a rule's within a table: equal handles are the same rules.
func (g *guard) look() ([]uint64, error) {
	var handles []uint64
	for _, t := range tables {
		msgs, err := g.table(t)
		if err != nil {
			return nil, err
		}
		if flags, _ := attribute32(msgs, unix.NFTA_TABLE_FLAGS); flags&unix.NFT_TABLE_F_DORMANT != 0 {
			return nil, fmt.Errorf("table %s has been made dormant", t.Name)
		}
		handle, _ := attribute64(msgs, nftaTableHandle)
		handles = append(handles, handle)
	}
	for _, c := range chains {
		rules, err := g.nft.GetRules(c.Table, c)
		if err != nil {
			return nil, g.spoilt(fmt.Errorf("read chain %s: %w", c.Name, err))
		}
		for _, r := range rules {
			handles = append(handles, r.Handle)
		}
	}
	return handles, nil
}

// table reads one of our tables.
func (g *guard) table(t *nftables.Table) ([]netlink.Message, error) {
	name := netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.Name), 0)}
	msgs, err := g.ask(unix.NFT_MSG_GETTABLE, byte(t.Family), []netlink.Attribute{name})
	if err != nil {
		return nil, g.spoilt(fmt.Errorf("read table %s: %w", t.Name, err))
	}
	return msgs, nil
}

// spoilt forgets the connections after an error: an answer that is still on its
// way must not be taken for that to the next question.
func (g *guard) spoilt(err error) error {
	g.close()
	g.doubt = true
	return err
}

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h; x/sys has no name for it.
const nftaTableHandle = 4

// ask puts one question of the nftables subsystem.
func (g *guard) ask(kind int, family byte, attrs []netlink.Attribute) ([]netlink.Message, error) {
	if err := g.dial(); err != nil {
		return nil, err
	}
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	return g.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: nftMessage(kind), Flags: netlink.Request},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, body...),
	})
}

// attribute finds an attribute in the first answer.
func attribute(msgs []netlink.Message, kind uint16, length int) ([]byte, bool) {
	if len(msgs) == 0 || len(msgs[0].Data) < 4 {
		return nil, false
	}
	attrs, err := netlink.UnmarshalAttributes(msgs[0].Data[4:])
	if err != nil {
		return nil, false
	}
	for _, a := range attrs {
		if a.Type == kind && len(a.Data) == length {
			return a.Data, true
		}
	}
	return nil, false
}

func attribute32(msgs []netlink.Message, kind uint16) (uint32, bool) {
	b, ok := attribute(msgs, kind, 4)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

func attribute64(msgs []netlink.Message, kind uint16) (uint64, bool) {
	b, ok := attribute(msgs, kind, 8)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint64(b), true
}
