# A service that the name server starts: says hello to those who have authenticated themselves.
lappend auto_path [file join [file dirname [info script]] ..]
package require byname

proc hello {who} {
    if {[byname::peer $::rpcFile] eq "0"} {
        error "who are you?"
    }
    return "Hello, $who, from [pid]"
}
byname::export hello

lassign [byname::launched] name ticket
set port [dp_MakeRPCServer]
ns_AdvertiseService $name [info hostname] $port [pid] $ticket
vwait forever
