package fleet

// Guard names one of the rules of docs/DESIGN.md section 3 that stand between
// us and two holders of one thing. The list exists so that a test can remove
// them one by one and see that the audits notice.
type Guard string

// Every guard.
const (
	GuardLeadRead    Guard = "lease-read"   // act only under a fresh confirmed read
	GuardRestartWait Guard = "restart-wait" // a restarted member waits before it may vote
	GuardTransfer    Guard = "transfer"     // drop the lead's lease before handing the lead over
	GuardOrphan      Guard = "orphan"       // a store whose agent is hung hands the lead over
	GuardRecordFirst Guard = "record-first" // a right is in the store before its order is sent
	GuardEars        Guard = "ears"         // a majority of ears keeps a lease, not the leader
	GuardStint       Guard = "stint"        // a lease that ended ends its stint for good
	GuardPromise     Guard = "promise"      // a stint is over only by a majority of promises
	GuardEarWait     Guard = "ear-wait"     // an ear acknowledges nothing just after a boot
	GuardOneVoter    Guard = "one-voter"    // voters change one at a time
	GuardKernel      Guard = "guard"        // the kernel ends an address without the agent
	GuardAfterCheck  Guard = "after-check"  // the clock is read again after a renewal
	GuardHandover    Guard = "handover"     // a lapsed lease alone frees no service
	GuardProof       Guard = "proof"        // what counts as proof of death
	GuardBar         Guard = "bar"          // a returned host holds nothing until admitted
	GuardIntent      Guard = "intent"       // an open fence is waited out
	GuardBrake       Guard = "brake"        // of many that are lost at once nobody is fenced
	GuardLoop        Guard = "loop"         // who was fenced three times within an hour stays off
	GuardInventory   Guard = "inventory"    // nothing is started on an unknown host
	GuardWatchdog    Guard = "watchdog"     // a host without a lease that holds a service kicks no more
	GuardBehind      Guard = "behind"       // a copy that lacks what was written without it is not promoted
	GuardPairFirst   Guard = "pair-first"   // of two that lose sight of each other one fences, the other gives it time
	GuardPairRight   Guard = "pair-right"   // who has booted since it was joint does not fence
	GuardPairAlone   Guard = "pair-alone"   // one goes on alone by a proof of this boot, or its partner's word
)

// Guards lists them all.
func Guards() []Guard {
	return []Guard{
		GuardLeadRead, GuardRestartWait, GuardTransfer, GuardOrphan, GuardRecordFirst, GuardEars,
		GuardStint, GuardPromise, GuardEarWait, GuardOneVoter, GuardKernel, GuardAfterCheck,
		GuardHandover, GuardProof, GuardBar, GuardIntent, GuardBrake, GuardLoop, GuardInventory, GuardWatchdog, GuardBehind,
		GuardPairFirst, GuardPairRight, GuardPairAlone,
	}
}
