// What the page says, in its two languages.

const TEXTS = {
  en: {
    skip: "Skip to the search field",
    views: "Views",
    search: "Search",
    labels: "Classify",
    map: "Map",
    heading: "Search these pictures",
    queryLabel: "Describe what you look for",
    queryPlaceholder: "Describe a picture",
    grammar: "horse + stripes, apple - fruit, 2:dog + cat",
    pictureTerms: "Pictures in the query",
    results: "Results",
    pickPicture: "Search with a picture of yours",
    examples: "Try",
    filters: "Filters",
    filtersActive: (n) => `Filters (${n})`,
    clearFilters: "Clear filters",
    any: "any",
    from: (name) => `${name}, from`,
    to: (name) => `${name}, to`,
    contains: (name) => `${name} contains`,
    dropHere: "Drop a picture to search with it",
    pictures: (n) => `${n.toLocaleString("en")} ${n === 1 ? "picture" : "pictures"}`,
    loading: (done, all) => `Loading the model: ${done} of ${all} MB`,
    starting: "Starting the model",
    browsing: "Some of the collection",
    found: (n, all) => `The best ${n.toLocaleString("en")} of ${all.toLocaleString("en")}`,
    fitting: (n, all) => `${n.toLocaleString("en")} of ${all.toLocaleString("en")} ${n === 1 ? "fits" : "fit"}`,
    nothingFits: "Nothing here fits",
    nothingAllowed: "No picture passes the filters.",
    belowCut: "Closest of the rest",
    closest: "The closest",
    fits: "fits",
    doesNotFit: "does not fit",
    more: "Show more",
    similarity: "Similarity",
    alike: "More like this",
    add: "Add to the query",
    subtract: "Take away from the query",
    remove: (name) => `Remove ${name}`,
    toggleSign: (name) => `Switch plus and minus of ${name}`,
    why: "Why this picture?",
    whyFor: (text) => `What makes it match “${text}”`,
    whyHelp: "Parts of the picture and words were covered one at a time. The brighter a part, the more of the match goes when it is covered.",
    whyNeedsText: "Search with words first, and this shows which parts of the picture match them.",
    working: (share) => `Looking: ${Math.round(share * 100)} %`,
    close: "Close",
    yourPicture: "your picture",
    unreadable: (name) => `“${name}” is not a picture that this browser can read.`,
    tooLarge: (name, limit) => `“${name}” is too large: at most ${limit} MB.`,
    tooManyPixels: (name) => `“${name}” has too many pixels: at most 100 million.`,
    failed: (reason) => `This did not work: ${reason}`,
    nothingLeft: "The parts of the query cancel each other out: nothing is left to look for.",
    onlyMinus: "This only says what not to find: add what to look for.",
    longQuery: "A query may have at most 2,000 characters.",
    labelsLabel: "Labels, one on each line",
    labelsHelp: "Type labels, and every picture goes to the one that fits best. Drop a picture to see its own probabilities.",
    sortNow: "Classify the pictures",
    sorted: (n, k) => `${n.toLocaleString("en")} pictures under ${k} labels`,
    needsTwo: "Type at least two labels.",
    tooManyLabels: "At most 200 labels.",
    tooLargeToSort: "The collection is too large to classify on this page.",
    drawingMap: "Drawing the map",
    sortOne: (name) => `What “${name}” is`,
    mapLabel: "Map of the collection: pictures that look alike are close. Arrow keys move, plus and minus zoom, Enter opens the picture in the middle.",
    mapHelp: "Pictures that look alike are close. Drag to move, scroll or pinch to zoom; a search lights up what it finds.",
    mapSome: (n, all) => `${n.toLocaleString("en")} of ${all.toLocaleString("en")} pictures`,
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    themeAuto: "Colours as the system has them",
    themeLight: "Light colours",
    themeDark: "Dark colours",
    aboutStatic: (model) => `Everything runs in your browser, with the model “${model}”: what you type and drop here never leaves this device.`,
    aboutServer: (model) => `Searches run on the server of this page, with the model “${model}”.`,
    name: "Name",
    folder: "Folder",
    taken: "Taken",
    camera: "Camera",
    size: "Size",
    time: "Time in the video",
    yes: "yes",
    no: "no",
  },
  zh: {
    skip: "跳到搜索框",
    views: "视图",
    search: "搜索",
    labels: "分类",
    map: "地图",
    heading: "搜索这些图片",
    queryLabel: "描述要找的图片",
    queryPlaceholder: "描述一张图片",
    grammar: "马 + 条纹，苹果 - 水果，2:狗 + 猫",
    pictureTerms: "查询中的图片",
    results: "结果",
    pickPicture: "用自己的图片搜索",
    examples: "试试",
    filters: "筛选",
    filtersActive: (n) => `筛选（${n}）`,
    clearFilters: "清除筛选",
    any: "不限",
    from: (name) => `${name}，从`,
    to: (name) => `${name}，到`,
    contains: (name) => `${name}包含`,
    dropHere: "松开即用这张图片搜索",
    pictures: (n) => `${n.toLocaleString("en")} 张图片`,
    loading: (done, all) => `正在加载模型：${done} / ${all} MB`,
    starting: "正在启动模型",
    browsing: "图片集一览",
    found: (n, all) => `${all.toLocaleString("en")} 张中最接近的 ${n.toLocaleString("en")} 张`,
    fitting: (n, all) => `${all.toLocaleString("en")} 张中有 ${n.toLocaleString("en")} 张符合`,
    nothingFits: "没有符合的图片",
    nothingAllowed: "没有图片满足筛选条件。",
    belowCut: "其余最接近的",
    closest: "最接近的",
    fits: "符合",
    doesNotFit: "不符合",
    more: "显示更多",
    similarity: "相似度",
    alike: "找相似的图片",
    add: "加入查询",
    subtract: "从查询中减去",
    remove: (name) => `移除${name}`,
    toggleSign: (name) => `切换${name}的加减`,
    why: "为什么是这张？",
    whyFor: (text) => `哪些部分符合“${text}”`,
    whyHelp: "依次遮住图片的一部分或一个词：某处越亮，遮住它之后相似度下降得越多。",
    whyNeedsText: "先用文字搜索，这里就会显示图片的哪些部分与之相符。",
    working: (share) => `正在查看：${Math.round(share * 100)}%`,
    close: "关闭",
    yourPicture: "你的图片",
    unreadable: (name) => `“${name}”不是此浏览器能读取的图片。`,
    tooLarge: (name, limit) => `“${name}”太大：最多 ${limit} MB。`,
    tooManyPixels: (name) => `“${name}”的像素太多：最多一亿。`,
    failed: (reason) => `出错了：${reason}`,
    nothingLeft: "查询的各部分互相抵消，没有剩下要找的内容。",
    onlyMinus: "这里只说了不要什么：请加上要找的内容。",
    longQuery: "查询最多 2,000 个字符。",
    labelsLabel: "标签，每行一个",
    labelsHelp: "输入若干标签，每张图片会归到最符合的一个。拖入一张图片可查看它属于各标签的概率。",
    sortNow: "给图片分类",
    sorted: (n, k) => `${n.toLocaleString("en")} 张图片，${k} 个标签`,
    needsTwo: "请至少输入两个标签。",
    tooManyLabels: "最多 200 个标签。",
    tooLargeToSort: "图片太多，无法在本页分类。",
    drawingMap: "正在绘制地图",
    sortOne: (name) => `“${name}”是什么`,
    mapLabel: "图片集地图：相像的图片彼此靠近。方向键移动，加减键缩放，回车键打开正中的图片。",
    mapHelp: "相像的图片彼此靠近。拖动可移动，滚轮或双指可缩放；搜索会点亮找到的图片。",
    mapSome: (n, all) => `${all.toLocaleString("en")} 张图片中的 ${n.toLocaleString("en")} 张`,
    zoomIn: "放大",
    zoomOut: "缩小",
    themeAuto: "颜色跟随系统",
    themeLight: "浅色",
    themeDark: "深色",
    aboutStatic: (model) => `一切都在你的浏览器里运行，模型是“${model}”：你输入和拖入的内容不会离开本设备。`,
    aboutServer: (model) => `搜索在本页的服务器上运行，模型是“${model}”。`,
    name: "名称",
    folder: "文件夹",
    taken: "拍摄时间",
    camera: "相机",
    size: "尺寸",
    time: "视频中的时间",
    yes: "是",
    no: "否",
  },
};

let language = navigator.language.startsWith("zh") ? "zh" : "en";

export const getLanguage = () => language;

/** Switch between English (`en`) and Chinese (`zh`). */
export function setLanguage(name) {
  language = name in TEXTS ? name : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

/** A text in the current language; some take values. */
export function t(key, ...values) {
  const text = TEXTS[language][key] ?? key;
  return typeof text === "function" ? text(...values) : text;
}

/** Columns of every index that the page shows. */
const COLUMNS = ["folder", "taken", "camera", "time"];

/** The name of a column: in the current language if it is one of the index's own. */
export const columnName = (name) => (COLUMNS.includes(name) ? t(name) : name);

/** Fill in the texts of all elements that name one. */
export function translatePage() {
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
  }
  for (const node of document.querySelectorAll("[data-title]")) node.title = t(node.dataset.title);
  for (const node of document.querySelectorAll("[data-placeholder]")) {
    node.placeholder = t(node.dataset.placeholder);
  }
}
