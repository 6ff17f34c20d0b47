package plan

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Op is what a step does.
type Op uint8

// The operations. All but a few steps are one system call.
const (
	OpCall      Op = iota // Call(Args…)
	OpCheckFS             // the file system at Args[0], a path, has the magic number Args[1]
	OpCloseRest           // close every descriptor from 3 on, but Args[0], where that is above 2, and the one by which the walker tells that the command has begun
	OpExecAny             // execve each of Args[0], paths, with arguments Args[1] and environment Args[2], until one succeeds
	OpFork                // make a second process, for the next Args[0] steps; the first goes on behind them, with a pidfd for the result. Both end in an exec, the second one's later
	OpCaller              // fail where the caller is gone, who would not be told any more that the command has begun
)

// Plan is a start plan.
type Plan struct {
	Flags    uint64 // CLONE_NEW* for clone3
	CgroupFD int    // a cgroup v2 directory for CLONE_INTO_CGROUP; -1 for none
	PidNS    int    // a pid namespace, or the pidfd of a process in it, for the process to be made in: only its maker can choose that; -1 for none
	Steps    []Step
}

// Step is one system call, or one of the few other operations.
type Step struct {
	Name  string // as an error says it: "mount proc at /proc"
	Shell string // the same in the words of a shell, or a comment; "" is left out of what Explain prints
	Op    Op
	Call  uintptr
	Args  []Arg
	OK    []unix.Errno // errors that do not end the walk
	Needs int          // skip unless this step, counted from 1, succeeded; 0 for always
	Cwd   bool         // part of entering the working directory: where it fails, the caller or the image named a wrong one
}

// Steps is how many steps an OpFork's second process does.
func (s Step) Steps() int { return int(s.Args[0].n) }

// Arg is an argument: a number, bytes whose address is passed, a list of strings as argv is, or the result of an earlier step.
type Arg struct {
	kind argKind
	n    int64
	data []byte
	list []string
}

type argKind uint8

const (
	argInt argKind = iota
	argData
	argList
	argResult
)

// Int is a number.
func Int[T ~int | ~int64 | ~uint64 | ~uintptr | ~uint32](n T) Arg { return Arg{n: int64(n)} }

// Str is the address of a string with a zero byte at its end.
func Str(s string) Arg { return Arg{kind: argData, data: append([]byte(s), 0)} }

// Data is the address of bytes.
func Data(b []byte) Arg { return Arg{kind: argData, data: b} }

// List is the address of an array of addresses of strings, with a nil at its end.
func List(s []string) Arg { return Arg{kind: argList, list: s} }

// Result is what an earlier step, counted from 1, returned.
func Result(step int) Arg { return Arg{kind: argResult, n: int64(step)} }

// add appends a step and returns its number, counted from 1.
func (p *Plan) add(s Step) int {
	p.Steps = append(p.Steps, s)
	return len(p.Steps)
}

// The encoded form: a header, one record of fixed size a step, then the data that arguments point to by offset. All numbers are 64-bit
// little-endian, so that the walker reads words.
//
//	header: magic, flags, cgroup descriptor, number of steps, offset of the data, whole length
//	step:   op, call, needs, six argument kinds, six arguments, three tolerated errors
const (
	encMagic   = 0x316e616c702d636c // "lc-plan1"
	HeadWords  = 6
	StepWords  = 3 + 6 + 6 + 3
	maxSteps   = 400
	maxEncoded = 16 << 20
)

// Encode returns the plan as bytes without pointers, which another process can walk. Names and shell texts are not part of it.
func (p *Plan) Encode() ([]byte, error) {
	if len(p.Steps) > maxSteps {
		return nil, fmt.Errorf("a plan of %d steps", len(p.Steps))
	}
	dataAt := 8 * (HeadWords + StepWords*len(p.Steps))
	b := make([]byte, dataAt, dataAt+16<<10) // what is passed by address comes behind the records, and is seldom more
	place := func(data ...byte) uint64 {
		at := len(b)
		b = append(b, data...)
		b = append(b, make([]byte, -len(b)&7)...)
		return uint64(at)
	}
	word := 0
	put := func(n uint64) {
		binary.LittleEndian.PutUint64(b[8*word:], n)
		word++
	}
	for _, n := range [HeadWords]uint64{encMagic, p.Flags, uint64(int64(p.CgroupFD)), uint64(len(p.Steps)), uint64(dataAt)} {
		put(n)
	}
	for i, s := range p.Steps {
		if len(s.Args) > 6 || len(s.OK) > 3 || s.Needs > i {
			return nil, fmt.Errorf("step %d (%s) does not fit", i+1, s.Name)
		}
		record := [StepWords]uint64{uint64(s.Op), uint64(s.Call), uint64(s.Needs)}
		kinds, values, ok := record[3:9], record[9:15], record[15:]
		for j, a := range s.Args {
			kinds[j] = uint64(a.kind)
			switch a.kind {
			case argData:
				values[j] = place(a.data...)
			case argList:
				offsets := make([]byte, 0, 8*(len(a.list)+1))
				for _, str := range a.list {
					offsets = binary.LittleEndian.AppendUint64(offsets, place(append([]byte(str), 0)...))
				}
				values[j] = place(binary.LittleEndian.AppendUint64(offsets, 0)...)
			default:
				values[j] = uint64(a.n)
			}
		}
		for j, e := range s.OK {
			ok[j] = uint64(e)
		}
		for _, n := range record {
			put(n)
		}
	}
	if len(b) > maxEncoded {
		return nil, errors.New("the command line and environment are longer than 16 MiB")
	}
	binary.LittleEndian.PutUint64(b[8*(HeadWords-1):], uint64(len(b)))
	return b, nil
}

// Relocate checks an encoded plan that lies in memory at base and turns its offsets into addresses, in place.
func Relocate(b []byte, base uintptr) error {
	bad := errors.New("a start plan that does not parse")
	if len(b) < 8*HeadWords || binary.LittleEndian.Uint64(b) != encMagic || binary.LittleEndian.Uint64(b[40:]) != uint64(len(b)) {
		return bad
	}
	steps, dataAt := binary.LittleEndian.Uint64(b[24:]), binary.LittleEndian.Uint64(b[32:])
	if steps > maxSteps || dataAt != 8*(HeadWords+StepWords*steps) || dataAt > uint64(len(b)) {
		return bad
	}
	inData := func(at uint64) bool { return at >= dataAt && at < uint64(len(b)) }
	for i := range steps {
		rec := b[8*(HeadWords+StepWords*i):]
		for j := range 6 {
			kind, value := binary.LittleEndian.Uint64(rec[8*(3+j):]), rec[8*(9+j):]
			at := binary.LittleEndian.Uint64(value)
			switch argKind(kind) {
			case argData:
				if !inData(at) {
					return bad
				}
				binary.LittleEndian.PutUint64(value, uint64(base)+at)
			case argList:
				for k := at; ; k += 8 {
					if !inData(k) || !inData(k+7) {
						return bad
					}
					str := binary.LittleEndian.Uint64(b[k:])
					if str == 0 {
						break
					}
					if !inData(str) {
						return bad
					}
					binary.LittleEndian.PutUint64(b[k:], uint64(base)+str)
				}
				binary.LittleEndian.PutUint64(value, uint64(base)+at)
			case argResult:
				if at == 0 || at > i {
					return bad
				}
			}
		}
	}
	return nil
}
