"""A small corpus of sentences in many languages and scripts, to train tokenizers on and to predict."""

from __future__ import annotations

__all__ = ["CONTEXTS", "PARAGRAPHS", "QUESTIONS", "SENTENCES"]

ENGLISH = (
    "Ada Lovelace wrote the first published program for Charles Babbage's Analytical Engine in 1843.",
    "The United Nations was founded in San Francisco on 24 October 1945 by fifty-one countries.",
    "Marie Curie won Nobel Prizes in both physics (1903) and chemistry (1911).",
    "It's raining again, isn't it? I can't believe we've forgotten the umbrella!",
    "Apple Inc. reported revenue of $94.8 billion, up 6.3% from the year before.",
    "New York City's subway carries about 3.6 million riders on a weekday.",
    "Mount Everest is 8,848.86 metres high, according to a survey by China and Nepal.",
    "Please e-mail jane.o'neil@example.com or visit https://www.example.org/help?id=42&lang=en today.",
    "The quick brown fox jumps over the lazy dog; the dog does not mind.",
    "NASA launched the James Webb Space Telescope on 25 December 2021 from French Guiana.",
    "William Shakespeare was born in Stratford-upon-Avon and buried there in April 1616.",
    "A U.S. court ruled on Tuesday that the company must pay 2,500 former workers.",
    "The film is slow, overlong and, in the end, strangely moving.",
    '"Well," said Dr. Watson, "what do you make of it, Holmes?"',
    "Manchester United beat Real Madrid 3-1 at Old Trafford last night.",
    "Water boils at 100 °C (212 °F) at sea level, but at 93 °C in Denver.",
    "Barack Obama was the 44th president of the United States from 2009 to 2017.",
    "Ludwig van Beethoven moved from Bonn to Vienna at the age of twenty-one.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen.",
    "The European Central Bank in Frankfurt raised interest rates by 0.25 points.",
    "I loved every minute of this wonderful little movie \N{CLAPPING HANDS SIGN}\N{CLAPPING HANDS SIGN}",
    "Linus Torvalds released version 0.01 of Linux in September 1991 in Helsinki.",
    "The Great Barrier Reef lies off the coast of Queensland, Australia.",
    "Toyota, Honda and Nissan are the largest car makers of Japan.",
    "He said no. She said yes. They married anyway, in Las Vegas, in the rain.",
    "Serena Williams won twenty-three Grand Slam singles titles.",
)

EUROPEAN = (
    "Emmanuel Macron a été réélu président de la République française en avril 2022.",
    "L'été dernier, nous avons passé deux semaines à Montréal chez des amis québécois.",
    "Où est la bibliothèque ? Elle se trouve près de la gare de Lyon, à côté du café.",
    "Le Petit Prince, d'Antoine de Saint-Exupéry, fut publié à New York en 1943.",
    "Die Universität Heidelberg wurde im Jahre 1386 gegründet und ist die älteste Deutschlands.",
    "Johann Wolfgang von Goethe wurde am 28. August 1749 in Frankfurt am Main geboren.",
    "Das Donaudampfschifffahrtsgesellschaftskapitänspatent ist ein sehr langes Wort.",
    "Der Zug von München nach Zürich fährt um 7.45 Uhr ab und kommt um elf Uhr an.",
    "Gabriel García Márquez nació en Aracataca, Colombia, el 6 de marzo de 1927.",
    "¿Dónde está el niño? ¡Está jugando al fútbol con Íñigo en el jardín!",
    "La Sagrada Família de Barcelona comenzó a construirse en 1882.",
    "Dante Alighieri nacque a Firenze e morì in esilio a Ravenna nel 1321.",
    "Perché non vieni a Roma con noi? C'è ancora un posto libero in macchina.",
    "Fernando Pessoa escreveu em português e em inglês, com mais de setenta heterónimos.",
    "O coração de São Paulo nunca dorme, nem às três horas da manhã.",
    "Mikołaj Kopernik urodził się w Toruniu, a zmarł we Fromborku w 1543 roku.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy nedaleko města Plzeň.",
    "Árvíztűrő tükörfúrógép: ez a mondat minden ékezetes betűt tartalmaz.",
    "Orhan Pamuk İstanbul'da doğdu ve 2006 yılında Nobel Edebiyat Ödülü'nü kazandı.",
    "Søren Kierkegaard blev født i København og skrev på dansk om angst og tro.",
    "Åsa köpte räksmörgås i Göteborg för 120 kronor i går.",
    "Tasavallan presidentti asuu Helsingissä, Mäntyniemessä, meren rannalla.",
    "Vincent van Gogh schilderde De Sterrennacht in juni 1889 in Saint-Rémy.",
    "Mihai Eminescu s-a născut la Botoșani și a murit la București.",
)

OTHER_SCRIPTS = (
    "Лев Николаевич Толстой родился в Ясной Поляне и написал роман «Война и мир».",
    "Москва — столица России, в ней живёт более двенадцати миллионов человек.",
    "Тарас Шевченко народився 9 березня 1814 року в селі Моринці.",
    "Ο Σωκράτης γεννήθηκε στην Αθήνα και δεν έγραψε κανένα βιβλίο.",
    "Η Θεσσαλονίκη είναι η δεύτερη μεγαλύτερη πόλη της Ελλάδας.",
    "北京是中华人民共和国的首都，人口超过两千万。",
    "鲁迅原名周树人，1881年出生于浙江绍兴。",
    "我喜欢在星期天去公园散步，你呢？",
    "東京スカイツリーの高さは634メートルで、2012年に開業しました。",
    "夏目漱石は『吾輩は猫である』を1905年に発表した。",
    "春はあけぼの。やうやう白くなりゆく山ぎは、少し明かりて。",
    "서울은 대한민국의 수도이며 한강이 도시를 가로지른다.",
    "세종대왕은 1443년에 한글을 창제하였다.",
    "ولد نجيب محفوظ في القاهرة عام 1911 وفاز بجائزة نوبل في الأدب.",
    "القاهرة هي عاصمة جمهورية مصر العربية وأكبر مدنها.",
    "ירושלים היא עיר עתיקה מאוד ויש בה כמעט מיליון תושבים.",
    "महात्मा गांधी का जन्म 2 अक्टूबर 1869 को पोरबंदर में हुआ था।",
    "नई दिल्ली भारत की राजधानी है और यमुना नदी के किनारे बसी है।",
    "রবীন্দ্রনাথ ঠাকুর ১৯১৩ সালে সাহিত্যে নোবেল পুরস্কার পান।",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "Hà Nội là thủ đô của Việt Nam, còn Thành phố Hồ Chí Minh là thành phố lớn nhất.",
    "თბილისი საქართველოს დედაქალაქია და მტკვრის ნაპირას მდებარეობს.",
    "Երևանը Հայաստանի մայրաքաղաքն է։",
)

MIXED = (
    "Great pizza in Napoli \N{SLICE OF PIZZA}, but 45 minutes of waiting \N{CRYING FACE} #foodie @luigi",
    "We flew to 東京 with Air France and stayed at the 帝国ホテル for 3 nights \N{AIRPLANE}.",
    "The naïve café owner, José Ångström, paid €1.234,56 for a piñata.",
    "def f(x): return x**2 + 3*x - 1  # a polynomial, f(2) == 9",
    "A family of four: \N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
    "\N{ZERO WIDTH JOINER}\N{BOY} lives in Genève.",
    "Tabs\tand  double  spaces, and a non-breaking\N{NO-BREAK SPACE}space, in one line.",
    "Cafe\N{COMBINING ACUTE ACCENT} with a combining accent, and ﬁnance with a ligature.",
    "½ cup of sugar, ¾ cup of flour, 2² eggs \N{EM DASH} and x ≤ 10 \N{RIGHTWARDS ARROW} done…",
    "Call +44 (0)20 7946 0958 between 09:00 and 17:30, Mon\N{EN DASH}Fri; ask for Mr. O'Brien.",
    "SHOUTING IN CAPITALS IS RUDE, SAID MCDONALD'S LAWYER FROM L.A.",
)

SENTENCES: tuple[str, ...] = ENGLISH + EUROPEAN + OTHER_SCRIPTS + MIXED
"""Real sentences: names, numbers, accents, contractions, CJK, right-to-left scripts, emoji."""

PARAGRAPHS: tuple[str, ...] = tuple(
    " ".join((SENTENCES[start:] + SENTENCES[:start])[:: 2 + start % 3][:14]) for start in range(0, 80, 4)
)
"""Twenty texts of fourteen sentences each, longer than a model of 128 positions takes."""

CONTEXTS: tuple[str, ...] = (*ENGLISH[:8], *EUROPEAN[:4], *OTHER_SCRIPTS[:10:3], *PARAGRAPHS)
"""Where answers are looked for: short ones first, then those of many windows."""

QUESTIONS: tuple[str, ...] = (
    "Who wrote the first published program?",
    "When was it founded?",
    "Where was he born?",
    "How many people live there?",
    "Which prize did she win, and when?",
    "Où est né l'auteur ?",
    "Wie heißt die Stadt?",
    "首都はどこですか？",
    "Кто написал этот роман?",
)
