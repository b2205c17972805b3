# Tells `package require byname` where the package is: put this folder into auto_path, TCLLIBPATH or a folder of theirs.
package ifneeded byname 1.0 [list source [file join $dir byname.tcl]]
