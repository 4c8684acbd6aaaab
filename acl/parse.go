package acl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tailscale/hujson"
)

const (
	// maxDepth is how deep brackets may nest: the language needs 5, and what
	// an application puts into a grant a few more. The parser behind is
	// recursive, so this is checked before it sees the text.
	maxDepth = 32
	// maxValues bounds the memory that a text of many tiny values takes.
	maxValues = 200_000
)

// Parse reads a policy: HuJSON, that is JSON with comments and trailing
// commas, in UTF-8. The size is checked first, then the characters, then the
// depth, then the grammar, then the meaning of each word. Every error is an
// *Error with the place. Whether the names in it exist is Compile's to say.
func Parse(text []byte) (*Policy, error) {
	if len(text) > MaxPolicy {
		return nil, &Error{Line: 1, Column: 1, Msg: fmt.Sprintf(
			"the policy is %d bytes long; the most is %d: use groups and tags to make it shorter", len(text), MaxPolicy)}
	}
	d := &decoder{text: slices.Clone(text)}
	d.lines = lineStarts(d.text)
	if err := d.characters(); err != nil {
		return nil, err
	}
	if err := d.depth(); err != nil {
		return nil, err
	}
	root, err := hujson.Parse(d.text)
	if err != nil {
		return nil, d.grammar(err)
	}
	p := &Policy{text: d.text}
	if err := d.policy(root, p); err != nil {
		return nil, err
	}
	return p, nil
}

// decoder knows where in the text it is.
type decoder struct {
	text  []byte
	lines []int // offset at which each line starts
	last  position
}

func lineStarts(text []byte) []int {
	starts := []int{0}
	for i, c := range text {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

func (d *decoder) at(offset int) position {
	offset = min(max(offset, 0), len(d.text))
	line, found := slices.BinarySearch(d.lines, offset)
	if found {
		line++
	}
	from, column := d.lines[line-1], 1
	if d.last.line == line && d.last.offset <= offset {
		// A policy on one long line is not counted from its start each time.
		from, column = d.last.offset, d.last.column
	}
	column += utf8.RuneCount(d.text[from:offset])
	d.last = position{offset: offset, line: line, column: column}
	return d.last
}

// characters refuses what no editor shows as it is.
func (d *decoder) characters() error {
	if bytes.HasPrefix(d.text, []byte("\xef\xbb\xbf")) {
		return d.at(0).errorf("the text begins with a byte order mark; save it as UTF-8 without one")
	}
	if bytes.HasPrefix(d.text, []byte("\xff\xfe")) || bytes.HasPrefix(d.text, []byte("\xfe\xff")) {
		return d.at(0).errorf("the text is UTF-16; save it as UTF-8")
	}
	for i := 0; i < len(d.text); {
		r, n := utf8.DecodeRune(d.text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return d.at(i).errorf("the byte 0x%02x is not UTF-8; save the text as UTF-8", d.text[i])
		case r == '\n' || r == '\t' || r == '\r':
		case unicode.IsControl(r):
			return d.at(i).errorf("there is a control character (U+%04X); delete it", r)
		case unicode.Is(unicode.Bidi_Control, r):
			return d.at(i).errorf("there is an invisible character (U+%04X) that changes the order in which text is shown; delete it", r)
		}
		i += n
	}
	if len(bytes.TrimSpace(d.text)) == 0 {
		return d.at(0).errorf("the policy is empty; the smallest is \"{}\", which allows nothing")
	}
	return nil
}

// depth walks over the text once, outside strings and comments, and counts
// brackets and commas.
func (d *decoder) depth() error {
	depth, values := 0, 0
	for i := 0; i < len(d.text); i++ {
		switch d.text[i] {
		case '"':
			i = skipString(d.text, i)
		case '/':
			i = skipComment(d.text, i)
		case '{', '[':
			if depth++; depth > maxDepth {
				return d.at(i).errorf("brackets nest deeper than %d; a policy needs 5 levels", maxDepth)
			}
		case '}', ']':
			depth--
		case ',', ':':
			if values++; values > maxValues {
				return d.at(i).errorf("there are more than %d values; use groups and tags to make the policy shorter", maxValues)
			}
		}
	}
	return nil
}

// skipString returns the offset of the quote that ends the string at i.
func skipString(text []byte, i int) int {
	for i++; i < len(text) && text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i
}

// skipComment returns the offset of the last byte of the comment at i.
func skipComment(text []byte, i int) int {
	end, rest := "", text[i:]
	switch {
	case bytes.HasPrefix(rest, []byte("//")):
		end = "\n"
	case bytes.HasPrefix(rest, []byte("/*")):
		end = "*/"
	default:
		return i
	}
	n := bytes.Index(rest[2:], []byte(end))
	if n < 0 {
		return len(text)
	}
	return i + 2 + n + len(end) - 1
}

// grammar turns the parser's error into one of ours. Its own text may quote a
// whole megabyte.
func (d *decoder) grammar(err error) error {
	var line, column int
	if _, scanErr := fmt.Sscanf(err.Error(), "hujson: line %d, column %d:", &line, &column); scanErr != nil ||
		line < 1 || line > len(d.lines) || column < 1 {
		line, column = 1, 1
	}
	at := d.at(d.lines[line-1] + column - 1)
	inner := errors.Unwrap(err)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return at.errorf("the text ends before it is complete; a bracket, quote or comment is not closed")
	case inner != nil && strings.HasPrefix(inner.Error(), "invalid literal"):
		return at.errorf("%s is not valid JSON; names stand in double quotes", oneLine(d.token(at.offset), 40))
	case inner != nil:
		return at.errorf("this is not HuJSON: %s", oneLine([]byte(inner.Error()), 120))
	}
	return at.errorf("this is not HuJSON")
}

// token returns what stands at an offset up to the next blank or bracket.
func (d *decoder) token(offset int) []byte {
	rest := d.text[offset:]
	if n := bytes.IndexAny(rest, " \t\r\n,:{}[]"); n > 0 {
		return rest[:n]
	}
	return rest
}

// oneLine returns text with every run of white space made one blank, and cut
// to about limit bytes.
func oneLine(text []byte, limit int) string {
	if len(text) > 8*limit {
		text = text[:8*limit]
	}
	s := strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "")), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// checkNumbers refuses numbers that would become infinite in whatever reads
// them later.
func (d *decoder) checkValue(v hujson.Value) error {
	switch t := v.Value.(type) {
	case *hujson.Object:
		return d.eachMember(v, func(_ string, _ position, v hujson.Value) error { return d.checkValue(v) })
	case *hujson.Array:
		for _, e := range t.Elements {
			if err := d.checkValue(e); err != nil {
				return err
			}
		}
	case hujson.Literal:
		if t.Kind() == '0' {
			if _, err := strconv.ParseFloat(string(t), 64); err != nil {
				return d.at(v.StartOffset).errorf("the number %.40s is too large", t)
			}
		}
	}
	return nil
}
