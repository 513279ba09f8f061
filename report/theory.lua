-- pandoc filter: theory.md (GitHub Markdown, Persian, LaTeX math) -> Typst.
--  * rewrites the few LaTeX forms that pandoc 3.9's Typst writer sets wrongly;
--  * repairs symbol names that Typst 0.15 dropped;
--  * stops with an error on a formula it cannot convert, rather than print it wrong;
--  * <a id="eq-x"></a> before a display formula numbers it and labels it <eq-x>;
--    [متن](#eq-x) becomes a reference to it;
--    [متن](#ref-key) becomes a citation of refs.bib's entry (build.py makes these links);
--  * gives each table its number and caption (the list below), and stops at a table that has none;
--  * sets ∎ at the end of its line;
--  * <div dir="ltr"> becomes a left-to-right block, and the blank that GitHub needs between `$` and «،» goes.
local captions = {  -- the header row's text -> label, caption[, widths]
  ["راهکار|چه می‌کند|منبع"] = { "tbl-remedies", "راهکارهای مقابله با فروپاشی پسین؛ در پرانتز، علتی که هر راهکار هدف می‌گیرد.", { 0.22, 0.56, 0.22 } },
}

local symbol_fix = {
  { "dot%.circle", "dot.o" }, { "times%.circle", "times.o" }, { "plus%.circle", "plus.o" },
  { "sect%.big", "inter.big" }, { "%f[%a]sect%f[%A]", "inter" }, { 'delim: "||"', 'delim: "|"' },
}

local function norm_tex(s)
  for _, size in ipairs { "Bigg", "bigg", "Big", "big" } do   -- would be mirrored text brackets in RTL
    for _, side in ipairs { "l", "r", "m", "" } do
      s = s:gsub("\\" .. size .. side .. "%f[%A]%s*", "")
    end
  end
  s = s:gsub("\\begin{cases}(.-)\\end{cases}", function(body)  -- one column would lose its brace
    local rows = {}
    for row in (body:gsub("\\\\", "\1") .. "\1"):gmatch("(.-)\1") do
      if row:match("%S") then
        rows[#rows + 1] = row:find("&", 1, true) and row or (row .. " & ")
      end
    end
    return "\\begin{cases}" .. table.concat(rows, "\\\\") .. "\\end{cases}"
  end)
  s = s:gsub("\\thinspace%f[%A]", "\\,")   -- GitHub's Markdown eats the backslash of "\\,"
  return (s:gsub("\\left%s*\\|", "\\lVert "):gsub("\\right%s*\\|", "\\rVert ")
           :gsub("\\left%s*\\lVert%f[%A]", "\\lVert "):gsub("\\right%s*\\rVert%f[%A]", "\\rVert "))
end

local function tex2typst(text, display)
  local kind = display and pandoc.DisplayMath or pandoc.InlineMath
  local out = pandoc.write(pandoc.Pandoc { pandoc.Plain { pandoc.Math(kind, norm_tex(text)) } }, "typst")
  out = out:gsub("%s+$", "")
  if out:sub(1, 1) ~= "$" then error("pandoc cannot convert this formula: " .. text) end
  if out:find("#scale(", 1, true) then error("bracket size not supported: " .. text) end
  for _, f in ipairs(symbol_fix) do out = out:gsub(f[1], f[2]) end
  -- \mathrm{diag}(..), \operatorname{tr}(..): an operator, not spaced-out letters or text
  out = out:gsub("upright%(((%a )+%a)%)", "%0")
  out = out:gsub("([_^]?%(?)upright%((%a[%a ]*)%)", function(before, letters)
    local word = letters:gsub(" ", "")
    if #word < 2 then return before .. "upright(" .. letters .. ")" end
    if before:match("^[_^]") then return before .. 'upright("' .. word .. '")' end
    return before .. 'op("' .. word .. '")'
  end)
  out = out:gsub('upright%("', "upright(\2"):gsub('op%("', "op(\2")
           :gsub('"(%a[%a ]*)"', 'op("%1")'):gsub("\2", '"')
  return out
end

local pending
local divs = {}
local function anchor(html) return html:match('^<a%s+id="(eq%-[%w%-]+)"') end

local function inlines(list)
  local out = pandoc.List {}
  local depth = 0                             -- of round brackets in the text
  for i, el in ipairs(list) do
    if el.t == "Str" then
      depth = depth + select(2, el.text:gsub("%(", "")) - select(2, el.text:gsub("%)", ""))
    end
    if el.t == "Math" then
      local display = el.mathtype == "DisplayMath"
      local m = tex2typst(el.text, display)
      if display and pending then
        m = '#math.equation(block: true, numbering: "(۱)", ' .. m .. ") <" .. pending .. ">"
        pending = nil
      elseif not display and #el.text <= 80 then
        m = "#box(" .. m .. ");"               -- a formula broken over two right-to-left lines reads wrong
      end
      out:insert(pandoc.RawInline("typst", m))
    elseif el.t == "RawInline" and el.format == "html" then
      pending = anchor(el.text) or pending
    elseif el.t == "Link" and el.target:match("^#eq%-") then
      out:extend(el.content)
      out:insert(pandoc.RawInline("typst", " \u{200f}#eq-number(<" .. el.target:sub(2) .. ">, inside: " .. tostring(depth > 0) .. ")"))
    elseif el.t == "Link" and el.target:match("^#ref%-") then
      out:insert(pandoc.RawInline("typst", "#author-year(<" .. el.target:sub(6) .. ">, \"" .. pandoc.utils.stringify(el) .. "\")"))
    elseif el.t == "Str" and el.text == "∎" then
      out:insert(pandoc.RawInline("typst", "#qed"))
    elseif el.t == "Space" and list[i - 1] and list[i - 1].t == "Math" and list[i + 1]
        and list[i + 1].t == "Str" and (list[i + 1].text:find("^،") or list[i + 1].text:find("^؛") or list[i + 1].text:find("^[:.]")) then
      -- drop it
    else
      out:insert(el)
    end
  end
  return out
end

return {
  {
    traverse = "topdown",
    Inlines = inlines,
    Strong = function(el)                     -- a numbered reason: another look than «اثبات»
      if not pandoc.utils.stringify(el):match("^\xDB[\xB0-\xB9]") then return end
      local out = pandoc.List { pandoc.RawInline("typst", "#reason[") }
      out:extend(el.content)
      out:insert(pandoc.RawInline("typst", "]"))
      return out
    end,
    RawBlock = function(b)
      if b.format ~= "html" then return end
      pending = anchor(b.text) or pending
      local out = {}                          -- <div dir="ltr">: a left-to-right block; dir="rtl" is the page's own
      for close, attrs in b.text:gmatch("<(/?)div([^>]*)>") do
        if close == "" then
          local ltr = attrs:find('dir="ltr"', 1, true) ~= nil
          divs[#divs + 1] = ltr
          if ltr then out[#out + 1] = '#block(width: 100%)[#set text(dir: ltr, lang: "en"); #set align(left)' end
        elseif table.remove(divs) then
          out[#out + 1] = "]"
        end
      end
      return #out > 0 and pandoc.RawBlock("typst", table.concat(out, "\n")) or {}
    end,
    Div = function(d) return d.content end,
    Blocks = function(list)                   -- a line that introduces a display formula stays on the formula's page
      local function is_anchor(b) return (b.t == "RawBlock" or b.t == "Para") and pandoc.utils.stringify(b) == "" end
      local function is_display(b)
        local first = b and b.t == "Para" and b.content[1]
        return first and first.t == "Math" and first.mathtype == "DisplayMath"
      end
      local out = pandoc.List {}
      for i, b in ipairs(list) do
        local after = list[i + 1]
        if after and is_anchor(after) then after = list[i + 2] end
        if b.t == "Para" and not is_anchor(b) and not is_display(b) and is_display(after) then
          out:extend { pandoc.RawBlock("typst", "#block(sticky: true)["), b, pandoc.RawBlock("typst", "]") }
        else
          out:insert(b)
        end
      end
      return out
    end,
    Header = function(h)
      if not h.identifier:match("^sec%-") then h.identifier = "" end
      return h
    end,
  },
  {
    Table = function(t)                       -- no caption: not a numbered figure
      for _, c in ipairs(t.colspecs) do if c[1] == "AlignLeft" then c[1] = "AlignDefault" end end
      local header = {}
      for _, cell in ipairs(t.head.rows[1].cells) do header[#header + 1] = pandoc.utils.stringify(cell.contents) end
      local caption = captions[table.concat(header, "|")] or error("no caption for the table " .. table.concat(header, "|"))
      for i, width in ipairs(caption[3] or {}) do t.colspecs[i][2] = width end
      local s = pandoc.write(pandoc.Pandoc { t }, "typst")
      local body = s:match("^#figure%(%s*align%(center%)%[#(table%(.*%))%]%s*,%s*kind: table%s*%)%s*$")
      if not body then error("pandoc wrote this table in another form: " .. s:sub(1, 200)) end
      body = body:gsub("table%.header", "table.hline(), table.header", 1):gsub("%)$", "  table.hline(),\n)")
      s = "#long[\n#figure(kind: table, caption: [" .. caption[2] .. "], {\n  set par(justify: false)\n  " .. body
        .. "\n}) <" .. caption[1] .. ">\n]"
      return pandoc.RawBlock("typst", s .. "\n")
    end,
    Pandoc = function()
      if pending then error("no display formula after the anchor " .. pending) end
    end,
  },
}
