# The commands of the Tcl-DP name server (1995) for a plain tclsh of today: its client library, and as much of Tcl-DP's
# remote procedure calls as that needs. Frames and commands are described in docs/guide/src/tcl.md.
#
# What a peer sends is one list: the name of a command and its arguments. It is looked up and called as it is, and never
# evaluated as a script. Nobody can call anything here but what `byname::export` or a check command allows.

package require Tcl 8.6
package provide byname 1.0

namespace eval ::byname {
    # Name servers, as {host port}, and the one that is asked.
    variable servers {}
    variable current 0
    # The connection to it.
    variable line {}
    # A bearer token that is shown to name servers on this host.
    variable token {}
    # How long a connection may take to be made, and a name server to answer, in milliseconds.
    variable patience 10000
    variable answered_by 60000
    # What peers may call.
    variable exported {ns_Authenticate 1 ns_RecordTicket 1}
    # Tickets of clients, each good once: what they show, and what is answered.
    variable tickets {}
    # The pair that the name server started this program with.
    variable own {}
    # What was advertised without a ticket, for as long as this process lives: {host port} by name.
    variable advertised {}
    # Connections: what has come of the next frame, the check command, whether the peer has shown a ticket.
    variable buffer
    variable check
    variable known
    # Answers by connection and id, and what waits for one.
    variable answer
    variable next_id 0
    # Frames are shorter than this, and a greeting not longer than that, in bytes.
    variable max_frame 1000000
    variable max_greeting 1024
    # Tickets of clients that are kept at most.
    variable max_tickets 1000
}

# ---- frames -----------------------------------------------------------------------------------------------------------

# The bytes of a frame: the length counts all of it, numbers are padded with spaces.
proc ::byname::frame {token id message} {
    variable max_frame
    set bytes [encoding convertto utf-8 $message]
    set length [expr {[string length $bytes] + 16}]
    if {$length >= $max_frame} {
        error "the message is longer than a frame"
    }
    return [format "%6d %s %6d " $length $token $id]$bytes
}

# Takes the first frame from a variable of bytes: {token id message}, or nothing when it is not all there yet.
proc ::byname::take_frame {name} {
    upvar 1 $name bytes
    if {[string length $bytes] < 16} {
        return {}
    }
    if {![regexp {^ *([0-9]+)$} [string range $bytes 0 5] -> length]
            || ![regexp {^ ([edrx]) $} [string range $bytes 6 8] -> token]
            || ![regexp {^ *([0-9]+) $} [string range $bytes 9 15] -> id]} {
        error "the peer does not speak this protocol"
    }
    scan $length %d length
    scan $id %d id
    if {$length < 16} {
        error "the peer does not speak this protocol"
    }
    if {[string length $bytes] < $length} {
        return {}
    }
    set message [encoding convertfrom utf-8 [string range $bytes 16 [expr {$length - 1}]]]
    set bytes [string range $bytes $length end]
    return [list $token $id $message]
}

# ---- connections ------------------------------------------------------------------------------------------------------

# Waits until a variable is set, for so many milliseconds at most; 0 when the time is up.
proc ::byname::wait {name ms} {
    upvar #0 $name done
    set timer [after $ms [list set $name timeout]]
    if {![info exists done]} {
        vwait $name
    }
    after cancel $timer
    return [expr {$done ne "timeout"}]
}

# Connects and reads the greeting.
proc ::byname::open_line {host port} {
    variable patience
    variable max_greeting
    variable waiting
    set channel [socket -async $host $port]
    fconfigure $channel -blocking 0 -translation binary -buffering full
    set flag ::byname::waiting($channel)
    try {
        fileevent $channel writable [list set $flag yes]
        if {![wait $flag $patience]} {
            error "couldn't open socket: no answer from $host:$port"
        }
        fileevent $channel writable {}
        set failed [fconfigure $channel -error]
        if {$failed ne ""} {
            error "couldn't open socket: $failed"
        }
        set greeting ""
        set until [expr {[clock milliseconds] + $patience}]
        while {[string index $greeting end] ne "\n"} {
            set byte [read $channel 1]
            append greeting $byte
            if {$byte ne ""} {
                if {[string length $greeting] > $max_greeting} {
                    error "$host:$port does not speak this protocol"
                }
                continue
            }
            if {[eof $channel]} {
                error "$host:$port has closed the connection"
            }
            unset -nocomplain $flag
            fileevent $channel readable [list set $flag yes]
            if {![wait $flag [expr {max(1, $until - [clock milliseconds])}]]} {
                error "$host:$port says nothing"
            }
            fileevent $channel readable {}
        }
        if {![string match "Connection accepted*" $greeting]} {
            error [string trim $greeting]
        }
    } on error {message options} {
        close $channel
        return -options $options $message
    } finally {
        unset -nocomplain $flag
    }
    begin $channel {}
    return $channel
}

# A connection is there: frames that come are taken from now on.
proc ::byname::begin {channel check_command} {
    variable buffer
    variable check
    variable known
    set buffer($channel) {}
    set check($channel) $check_command
    set known($channel) 0
    fconfigure $channel -blocking 0 -translation binary -buffering full
    fileevent $channel readable [list ::byname::readable $channel]
}

# A connection has ended: whoever waits for an answer over it learns that.
proc ::byname::end {channel} {
    variable buffer
    variable check
    variable known
    variable answer
    variable line
    catch {close $channel}
    unset -nocomplain buffer($channel) check($channel) known($channel)
    if {$channel eq $line} {
        set line {}
    }
    foreach key [array names answer $channel,*] {
        if {[lindex $answer($key) 0] eq "waiting"} {
            set answer($key) {lost}
        }
    }
}

proc ::byname::readable {channel} {
    variable buffer
    if {[catch {read $channel 65536} bytes] || ($bytes eq "" && [eof $channel])} {
        end $channel
        return
    }
    append buffer($channel) $bytes
    while {[info exists buffer($channel)]} {
        if {[catch {take_frame buffer($channel)} next]} {
            end $channel
            return
        }
        if {$next eq ""} {
            return
        }
        deal {*}[linsert $next 0 $channel]
    }
}

proc ::byname::send {channel token id message} {
    puts -nonewline $channel [frame $token $id $message]
    flush $channel
}

# Does what a frame says.
proc ::byname::deal {channel token id message} {
    variable answer
    switch $token {
        r - x {
            if {[info exists answer($channel,$id)]} {
                answered $channel,$id [list $token $message]
            }
        }
        d {
            catch {perform $channel $message}
        }
        e {
            if {[catch {perform $channel $message} result options]} {
                set reply [list x $id [list $result [dict get $options -errorinfo]]]
            } else {
                set reply [list r $id $result]
            }
            # What it asked for may have closed the connection.
            catch {send $channel {*}$reply}
        }
    }
}

proc ::byname::answered {key reply} {
    variable answer
    set callbacks [lrange $answer($key) 1 end]
    if {[llength $callbacks] == 0} {
        set answer($key) $reply
        return
    }
    # dp_RDO with a callback: nobody waits.
    unset answer($key)
    lassign $callbacks done failed
    lassign $reply token message
    set callback [expr {$token eq "r" ? $done : $failed}]
    if {$callback ne ""} {
        uplevel #0 [linsert $callback end [expr {$token eq "r" ? $message : [lindex $message 0]}]]
    }
}

# Calls the command that a message names, if this peer may call it.
proc ::byname::perform {channel message} {
    variable check
    variable exported
    if {![string is list $message] || [llength $message] == 0} {
        error "the message is no list"
    }
    # Quoted anew: as it came, it might be a script with brackets or several lines.
    set message [list {*}$message]
    set command [lindex $message 0]
    if {$command eq "dp_CloseRPCFile"} {
        end $channel
        return
    }
    set given $check($channel)
    if {$given ne "" && ![dict exists $exported $command]} {
        # It refuses by an error.
        uplevel #0 [linsert $given end {*}$message]
    } elseif {![dict exists $exported $command]} {
        error "invalid command name \"[string range $command 0 99]\""
    }
    # The connection that a call comes over, as in Tcl-DP.
    set before [expr {[info exists ::rpcFile] ? $::rpcFile : ""}]
    set ::rpcFile $channel
    try {
        return [uplevel #0 $message]
    } finally {
        set ::rpcFile $before
    }
}

# ---- remote procedure calls, as in Tcl-DP -----------------------------------------------------------------------------

# Lets peers call these commands.
proc ::byname::export {args} {
    variable exported
    foreach command $args {
        dict set exported $command 1
    }
}

# Listens; gives the port. A check command is called with each message of a peer, and refuses it by an error. A login
# command is called with the address of each who connects, and refuses it likewise.
proc dp_MakeRPCServer {{port 0} {login ""} {check ""}} {
    set channel [socket -server [list ::byname::accept $login $check] $port]
    return [lindex [fconfigure $channel -sockname] 2]
}

proc ::byname::accept {login check channel address port} {
    fconfigure $channel -translation binary -blocking 0
    if {$login ne "" && [catch {uplevel #0 [linsert $login end $address]} why]} {
        catch {puts -nonewline $channel [encoding convertto utf-8 "Connection refused: [string map {\n { }} $why]\n"]}
        catch {close $channel}
        return
    }
    puts -nonewline $channel "Connection accepted\n"
    flush $channel
    begin $channel $check
}

# Connects; gives what dp_RPC takes. An entry of ns_FindServices may stand for host and port.
proc dp_MakeRPCClient {host {port ""} {check ""}} {
    if {$port eq ""} {
        lassign [lindex $host 1] address port
        if {$port eq ""} {
            error "couldn't open socket: \"[lindex $host 0]\" is not running"
        }
        set host $address
    }
    set channel [::byname::open_line $host $port]
    set ::byname::check($channel) $check
    return $channel
}

# Calls a command of the peer and waits for its result: dp_RPC file ?-timeout ms? command ?arg ...?
proc dp_RPC {file args} {
    variable ::byname::answer
    set ms 0
    if {[lindex $args 0] eq "-timeout"} {
        set ms [lindex $args 1]
        set args [lrange $args 2 end]
    }
    if {[llength $args] == 0} {
        error "wrong # args: should be \"dp_RPC file ?-timeout ms? command ?arg ...?\""
    }
    if {![info exists ::byname::buffer($file)]} {
        error "\"$file\" is no connection"
    }
    set id [::byname::new_id]
    set key $file,$id
    set answer($key) waiting
    set timer ""
    try {
        ::byname::send $file e $id $args
        if {$ms > 0} {
            set timer [after $ms [list ::byname::give_up $key]]
        }
        while {[lindex $answer($key) 0] eq "waiting"} {
            vwait ::byname::answer($key)
        }
        lassign $answer($key) token message
    } finally {
        after cancel $timer
        unset -nocomplain answer($key)
    }
    switch $token {
        r { return $message }
        x { return -code error -errorinfo [lindex $message 1] [lindex $message 0] }
        timeout { return -code error -errorcode {BYNAME TIMEOUT} "no answer in $ms ms" }
        default { return -code error -errorcode {BYNAME LOST} "the connection was closed" }
    }
}

proc ::byname::give_up {key} {
    variable answer
    if {[info exists answer($key)] && [lindex $answer($key) 0] eq "waiting"} {
        set answer($key) timeout
    }
}

proc ::byname::new_id {} {
    variable next_id
    set next_id [expr {($next_id + 1) % 1000000}]
    return $next_id
}

# Calls a command of the peer and goes on: dp_RDO file ?-callback cmd? ?-onerror cmd? command ?arg ...?
proc dp_RDO {file args} {
    variable ::byname::answer
    array set options {-callback "" -onerror ""}
    while {[string index [lindex $args 0] 0] eq "-"} {
        set option [lindex $args 0]
        if {![info exists options($option)]} {
            error "bad option \"$option\": must be -callback or -onerror"
        }
        set options($option) [lindex $args 1]
        set args [lrange $args 2 end]
    }
    if {$options(-callback) eq "" && $options(-onerror) eq ""} {
        ::byname::send $file d 0 $args
        return
    }
    set id [::byname::new_id]
    set answer($file,$id) [list waiting $options(-callback) $options(-onerror)]
    ::byname::send $file e $id $args
    return
}

# Ends a connection.
proc dp_CloseRPC {file} {
    catch {::byname::send $file d 0 dp_CloseRPCFile}
    ::byname::end $file
}

# ---- the name server --------------------------------------------------------------------------------------------------

# Says where the name servers are, as HOST:PORT; without arguments tells it.
proc ::byname::servers {args} {
    variable servers
    variable current
    if {[llength $args] > 0} {
        set found {}
        foreach text $args {
            if {![regexp {^\[?([^\]]+?)\]?:([0-9]+)$} $text -> host port]} {
                error "\"$text\" is no HOST:PORT"
            }
            lappend found [list $host $port]
        }
        disconnect
        set servers $found
        set current 0
    } elseif {[llength $servers] == 0} {
        # Told to programs that the name server starts.
        set text "127.0.0.1:4765"
        if {[info exists ::env(BYNAME_DP)] && $::env(BYNAME_DP) ne ""} {
            set text $::env(BYNAME_DP)
        }
        servers {*}[split $text ,]
    }
    return $servers
}

# Says who calls, to name servers on this host: what `byname login` or the file `token` of the data directory gives.
proc ::byname::identify {bearer} {
    variable token $bearer
    disconnect
}

proc ::byname::disconnect {} {
    variable line
    if {$line ne ""} {
        dp_CloseRPC $line
    }
    set line {}
}

# The connection to the name server that is asked, made when there is none. Which servers were tried is in `tried`.
proc ::byname::connect {} {
    variable line
    variable token
    variable current
    if {$line ne ""} {
        return $line
    }
    set all [servers]
    set why ""
    for {set tries 0} {$tries < [llength $all]} {incr tries} {
        lassign [lindex $all $current] host port
        if {![catch {open_line $host $port} channel]} {
            set shown $token
            if {$shown eq "" && [info exists ::env(BYNAME_TOKEN)]} {
                set shown $::env(BYNAME_TOKEN)
            }
            if {$shown ne ""} {
                dp_RPC $channel -timeout 10000 ns_Identify $shown
            }
            set line $channel
            return $line
        }
        set why $channel
        set current [expr {($current + 1) % [llength $all]}]
    }
    return -code error -errorcode {BYNAME UNREACHABLE} "no name server can be reached: $why"
}

# Asks the name server. When it goes away before it has answered, another one is asked, if asking twice does no harm.
proc ::byname::ask {args} {
    variable line
    variable current
    variable answered_by
    set again [expr {[lindex $args 0] ni {ns_Register ns_IncrConnection ns_DecrConnection ns_KillServices}}]
    set tries [expr {[llength [servers]] + 1}]
    while 1 {
        set file [connect]
        try {
            return [dp_RPC $file -timeout $answered_by {*}$args]
        } trap {BYNAME LOST} {message options} {
            set current [expr {($current + 1) % [llength [servers]]}]
            if {!$again || [incr tries -1] <= 0} {
                return -options $options "the name server went away; what was asked for may have been done or not"
            }
        }
    }
}

foreach {command arguments} {
    ns_AreYouAlive        {}
    ns_ListServices       {{pattern *}}
    ns_FindServices       {pattern}
    ns_LaunchServices     {pattern}
    ns_KillServices       {pattern}
    ns_IncrConnection     {pattern}
    ns_DecrConnection     {pattern}
    ns_ServiceState       {pattern args}
    ns_Register           {option args}
    ns_AuthenticateService {name}
    ns_WhoIsPrimary       {}
    ns_GetServerID        {}
    ns_IsPrimary          {}
} {
    set body "::byname::ask $command"
    foreach argument $arguments {
        set argument [lindex $argument 0]
        append body [expr {$argument eq "args" ? " {*}\$args" : " \$$argument"}]
    }
    proc $command $arguments $body
}
unset command arguments body argument

# Says where a service answers: ns_AdvertiseService name host port ?pid? ?ticket?
proc ns_AdvertiseService {name host port args} {
    set result [::byname::ask ns_AdvertiseService $name $host $port {*}$args]
    set last [lindex $args end]
    if {$last eq "" || [string is integer -strict $last]} {
        # The name server keeps what has no ticket for a day after its last word.
        dict set ::byname::advertised $name [list $host $port {*}$args]
        after cancel ::byname::advertise_again
        after 21600000 ::byname::advertise_again
    }
    return $result
}

proc ns_UnadvertiseService {name args} {
    dict unset ::byname::advertised $name
    return [::byname::ask ns_UnadvertiseService $name {*}$args]
}

proc ::byname::advertise_again {} {
    variable advertised
    dict for {name where} $advertised {
        catch {ask ns_AdvertiseService $name {*}$where}
    }
    if {[dict size $advertised] > 0} {
        after 21600000 ::byname::advertise_again
    }
}

# ---- services ---------------------------------------------------------------------------------------------------------

# The name and the ticket that the name server started this program with: `-service NAME` ends its command line, and one
# line `t1 t2` is on its standard input. Empty when somebody else has started it.
proc ::byname::launched {} {
    variable own
    set at [expr {[llength $::argv] - 2}]
    if {$at < 0 || [lindex $::argv $at] ne "-service"} {
        return {}
    }
    if {$own eq "" && [gets stdin pair] >= 0 && [llength $pair] == 2} {
        set own $pair
    }
    return [list [lindex $::argv end] [lindex $own 1]]
}

# Answers the ticket of a peer with the other half of its pair, or with nothing.
proc ns_Authenticate {ticket} {
    variable ::byname::own
    variable ::byname::tickets
    variable ::byname::known
    set answer ""
    set who 0
    if {$own ne "" && $ticket eq [lindex $own 0]} {
        set answer [lindex $own 1]
        set who server
    } elseif {[dict exists $tickets $ticket]} {
        # Good once.
        set answer [dict get $tickets $ticket]
        dict unset tickets $ticket
        set who client
    }
    if {$who ne 0 && [info exists ::rpcFile] && [info exists known($::rpcFile)]} {
        set known($::rpcFile) $who
    }
    return $answer
}

# The name server introduces a client: takes the pair that it will show. Nobody else may do that.
proc ns_RecordTicket {pair} {
    variable ::byname::tickets
    if {![info exists ::rpcFile] || [::byname::peer $::rpcFile] ne "server"} {
        error "only the name server introduces clients"
    }
    if {![string is list $pair] || [llength $pair] != 2} {
        error "a pair has two halves"
    }
    while {[dict size $tickets] >= $::byname::max_tickets} {
        dict unset tickets [lindex [dict keys $tickets] 0]
    }
    dict set tickets {*}$pair
    return
}

# Who is at the other end of a connection, as it has proved with a ticket: `server`, `client`, or 0.
proc ::byname::peer {file} {
    variable known
    return [expr {[info exists known($file)] ? $known($file) : 0}]
}
