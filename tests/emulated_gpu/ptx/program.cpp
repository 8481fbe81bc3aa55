// Reads PTX (NVIDIA, "Parallel Thread Execution ISA", chapters 4 to 6) as far as nvcc writes it for the kernels.
#include "program.h"

#include <algorithm>
#include <cctype>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>

namespace pi0_ptx {
namespace {

[[noreturn]] void fail(int line, const std::string &why) {
  throw std::runtime_error("PTX, line " + std::to_string(line) + ": " + why);
}

const std::map<std::string, Special> special_registers = {
    {"%tid.x", Special::tid_x},       {"%tid.y", Special::tid_y},       {"%tid.z", Special::tid_z},
    {"%ntid.x", Special::ntid_x},     {"%ntid.y", Special::ntid_y},     {"%ntid.z", Special::ntid_z},
    {"%ctaid.x", Special::ctaid_x},   {"%ctaid.y", Special::ctaid_y},   {"%ctaid.z", Special::ctaid_z},
    {"%nctaid.x", Special::nctaid_x}, {"%nctaid.y", Special::nctaid_y}, {"%nctaid.z", Special::nctaid_z},
    {"%laneid", Special::laneid}};

struct Statement {
  int line;
  std::string text;
};

// Statements end at a semicolon, labels at a colon; braces only make scopes, which nobody needs.
std::vector<Statement> statements_of(const std::string &body, int line) {
  std::vector<Statement> found;
  std::string text;
  int begun = line, vector = 0;
  for (size_t i = 0; i < body.size(); i++) {
    const char c = body[i];
    if (c == '/' && body.compare(i, 2, "//") == 0) {
      while (i < body.size() && body[i] != '\n') i++;
      line++;
      continue;
    }
    line += c == '\n';
    if (text.empty()) {
      if (isspace(c) || c == '{' || c == '}' || c == ';') continue;
      begun = line;
    }
    // .loc and .pragma end with the line, not with a semicolon
    const bool whole_line = text.compare(0, 4, ".loc") == 0;
    vector += (c == '{') - (c == '}');
    if ((c == ';' && !whole_line) || (c == '\n' && whole_line) || (c == ':' && text[0] == '$')) {
      found.push_back({begun, c == ':' ? text + ":" : text});
      text.clear(), vector = 0;
    } else {
      text += isspace(c) ? ' ' : c;
    }
  }
  return found;
}

std::string trimmed(const std::string &text) {
  const size_t first = text.find_first_not_of(" \t\n"), last = text.find_last_not_of(" \t\n");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// Operands between commas; those of a vector {a, b} one by one, and of a pair a|b the first.
std::vector<std::string> operands_of(const std::string &text) {
  std::vector<std::string> found;
  std::string one;
  for (const char c : text + ",") {
    if (c == '{' || c == '}') continue;
    if (c != ',') {
      one += c;
      continue;
    }
    one = trimmed(one.substr(0, one.find('|')));
    if (!one.empty()) found.push_back(one);
    one.clear();
  }
  return found;
}

// Reads one kernel.
class Reader {
 public:
  Reader(Kernel &kernel, const std::map<std::string, std::string> &files, const std::set<std::string> &shared)
      : kernel_(kernel), files_(files), shared_(shared) {}

  void parameters(const std::string &text) {
    static const std::regex parameter(R"(\.param[^,]*?([A-Za-z_$][\w$]*)(\[\d+\])?\s*(,|$))");
    for (std::sregex_iterator i(text.begin(), text.end(), parameter), end; i != end; ++i)
      parameters_.emplace((*i)[1], parameters_.size());
  }

  void body(const std::string &text, int line) {
    kernel_.places.push_back("?");
    for (const Statement &statement : statements_of(text, line)) {
      const std::string one = trimmed(statement.text);
      if (one.compare(0, 4, ".reg") == 0) declare(one, statement.line);
      else if (one.compare(0, 4, ".loc") == 0) locate(one);
      else if (one.back() == ':') labels_[one.substr(0, one.size() - 1)] = static_cast<uint32_t>(kernel_.code.size());
      else if (one[0] != '.') instruction(one, statement.line);
      else if (one.compare(0, 7, ".pragma") != 0) fail(statement.line, "not understood: " + one);
    }
    for (const auto &[instruction, label] : jumps_) {
      if (!labels_.count(label)) fail(line, "no label " + label);
      kernel_.code[instruction].target = labels_[label];
    }
  }

 private:
  struct Register {
    uint32_t slot;
    bool wide;
  };

  // .reg .b32 %r<20>; or .reg .b32 a, b; registers get their slots when they are first used.
  void declare(const std::string &text, int line) {
    static const std::regex form(R"(\.reg\s+\.(\w+)\s+(.*))");
    std::smatch parts;
    if (!std::regex_match(text, parts, form)) fail(line, "not understood: " + text);
    const std::string type = parts[1];
    for (const std::string &name : operands_of(parts[2])) types_[name.substr(0, name.find('<'))] = type;
  }

  void locate(const std::string &text) {
    static const std::regex form(R"(\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*inlined_at\s+(\d+)\s+(\d+))?.*)");
    std::smatch parts;
    if (!std::regex_match(text, parts, form) || parts[2] == "0") return;
    const auto place = [&](int i) {
      const auto file = files_.find(parts[i]);
      return (file == files_.end() ? "?" : file->second) + ":" + parts[i + 1].str();
    };
    kernel_.places.push_back(parts[3].matched ? place(1) + ", called at " + place(3) : place(1));
  }

  uint32_t reserve(bool wide) {
    kernel_.slots += wide && kernel_.slots % 2;  // 64 bits are aligned
    const uint32_t slot = kernel_.slots;
    kernel_.slots += wide ? 2 : 1;
    return slot;
  }

  // The type of a register: that of its prefix (%r12), or of its name where it was declared on its own.
  std::string type_of(const std::string &name) const {
    const auto own = types_.find(name);
    if (own != types_.end()) return own->second;
    const auto prefix = types_.find(name.substr(0, name.find_last_not_of("0123456789") + 1));
    return prefix == types_.end() ? "" : prefix->second;
  }

  static bool is_number(const std::string &text) {
    return isdigit(text[0]) || (text[0] == '-' && text.size() > 1 && isdigit(text[1]));
  }

  static uint64_t number(const std::string &text) {
    if (text.compare(0, 2, "0f") == 0 || text.compare(0, 2, "0F") == 0) return std::stoul(text.substr(2), nullptr, 16);
    return text[0] == '-' ? static_cast<uint64_t>(std::stoll(text, nullptr, 0)) : std::stoull(text, nullptr, 0);
  }

  uint32_t constant(uint64_t value, bool wide) {
    const auto [found, is_new] = constants_.emplace(std::make_pair(value, wide), 0);
    if (is_new) kernel_.constants.push_back({found->second = reserve(wide), value, wide});
    return found->second;
  }

  uint32_t operand(const std::string &text, bool wide, int line) {
    if (text == "_") return reserve(wide);
    const auto special = special_registers.find(text);
    if (special != special_registers.end()) {
      if (!kernel_.specials.count(special->second)) kernel_.specials[special->second] = reserve(false);
      return kernel_.specials[special->second];
    }
    if (is_number(text)) return constant(number(text), wide);
    const std::string type = type_of(text);
    if (type.empty()) {
      if (parameters_.count(text)) return constant(parameters_[text], wide);
      if (shared_.count(text)) return constant(0, wide);  // all of it is one array, which begins at address 0
      fail(line, "what is " + text + "?");
    }
    if ((type.find("64") != std::string::npos) != wide) fail(line, text + " has another width than its instruction");
    const auto [found, is_new] = registers_.emplace(text, Register{0, wide});
    if (is_new) found->second.slot = reserve(wide);
    return found->second.slot;
  }

  void instruction(const std::string &text, int line) {
    static const std::regex form(R"((?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*))");
    std::smatch parts;
    if (!std::regex_match(text, parts, form)) fail(line, "not understood: " + text);
    const std::string opcode = parts[3];
    std::vector<std::string> given = operands_of(parts[4]);
    // mov between a register and a vector is another instruction than between two registers: it has more operands; and a
    // load extends a number of fewer than 64 bits where its register has as many
    std::string name = opcode;
    if (opcode.compare(0, 4, "mov.") == 0 && given.size() > 2) name += parts[4].str()[0] == '{' ? ".unpack" : ".pack";
    if (opcode.compare(0, 3, "ld.") == 0 && opcode.find("64") == std::string::npos && given.size() == 2 &&
        type_of(given[0]).find("64") != std::string::npos)
      name += ".extend";
    const auto known = operations().find(name);
    if (known == operations().end()) fail(line, "unknown instruction " + name + "; add it to the operations of ptx/");
    Instruction made;
    made.run = known->second.run, made.kind = known->second.kind;
    made.place = static_cast<uint32_t>(kernel_.places.size() - 1);
    if (parts[2].matched) {
      made.guarded = true, made.guard_is = parts[1].length() == 0;
      made.guard = operand(parts[2], false, line);
    }
    if (made.kind == Kind::branch) {
      jumps_.emplace_back(kernel_.code.size(), given.at(0));
      given.clear();
    }
    const std::string &widths = known->second.widths;
    if (given.size() != widths.size())
      fail(line, opcode + " has " + std::to_string(given.size()) + " operands, known with " + std::to_string(widths.size()));
    for (size_t i = 0; i < given.size(); i++) {
      std::string one = given[i];
      if (one[0] == '[') {
        one = one.substr(1, one.size() - 2);
        const size_t plus = one.find('+');
        if (plus != std::string::npos) made.offset = std::stoll(one.substr(plus + 1)), one = trimmed(one.substr(0, plus));
      }
      made.operand[i] = operand(one, widths[i] == 'w', line);
    }
    kernel_.code.push_back(made);
    kernel_.text.push_back(text);
  }

  Kernel &kernel_;
  const std::map<std::string, std::string> &files_;
  const std::set<std::string> &shared_;
  std::map<std::string, uint32_t> parameters_, labels_;
  std::map<std::string, std::string> types_;
  std::unordered_map<std::string, Register> registers_;
  std::map<std::pair<uint64_t, bool>, uint32_t> constants_;
  std::vector<std::pair<size_t, std::string>> jumps_;
};

template <class Function> void each_line_with(const std::string &text, const std::string &start, Function function) {
  for (size_t at = text.find(start); at != std::string::npos; at = text.find(start, at + 1))
    function(text.substr(at, text.find('\n', at) - at));
}

}  // namespace

std::vector<Kernel> parse(const std::string &ptx) {
  std::map<std::string, std::string> files;  // their numbers and names, without folders
  each_line_with(ptx, ".file", [&](const std::string &line) {
    std::istringstream words(line);
    std::string directive, number, path;
    words >> directive >> number >> path;
    path = path.substr(0, path.find_last_of('"'));
    files[number] = path.substr(path.find_last_of("/\"") + 1);
  });
  std::set<std::string> shared;
  each_line_with(ptx, ".extern .shared", [&](const std::string &line) {
    const size_t end = line.find('[');
    shared.insert(line.substr(line.find_last_of(' ', end) + 1, end - line.find_last_of(' ', end) - 1));
  });

  std::vector<Kernel> kernels;
  static const std::string begin = ".entry ";
  for (size_t at = ptx.find(begin); at != std::string::npos; at = ptx.find(begin, at)) {
    const size_t name = at + begin.size(), open = ptx.find('(', name), close = ptx.find(')', open);
    const size_t body = ptx.find('{', close);
    size_t end = body + 1;
    for (int depth = 1; depth > 0; end++) {
      if (end >= ptx.size()) throw std::runtime_error("PTX ends inside a kernel");
      depth += (ptx[end] == '{') - (ptx[end] == '}');
    }
    Kernel kernel;
    kernel.name = trimmed(ptx.substr(name, open - name));
    Reader reader(kernel, files, shared);
    reader.parameters(ptx.substr(open + 1, close - open - 1));
    const int line = 1 + static_cast<int>(std::count(ptx.begin(), ptx.begin() + static_cast<long>(body), '\n'));
    reader.body(ptx.substr(body + 1, end - body - 2), line);
    kernels.push_back(std::move(kernel));
    at = end;
  }
  return kernels;
}

}  // namespace pi0_ptx
